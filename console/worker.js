// All tabs of this browser listen through this worker, so that there is one connection for all of them.

import { serve } from "./stream.js";

self.onconnect = ({ ports: [port] }) => serve(port);
