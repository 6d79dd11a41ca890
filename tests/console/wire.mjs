// A proxy that counts: every byte the daemon sends to whoever browses through it, pages and workers alike.

import http from 'node:http'

export class Wire {
  static async open() {
    const wire = new Wire()
    wire.sockets = []
    wire.answers = []
    wire.server = http.createServer((request, response) => wire.pass(request, response))
    await new Promise((resolve) => wire.server.listen(0, '127.0.0.1', resolve))
    return wire
  }

  /** How a browser is told to go through it, also to this machine. */
  get proxy() {
    return { server: `http://127.0.0.1:${this.server.address().port}`, bypass: '<-loopback>' }
  }

  pass(request, response) {
    const { hostname, port, pathname, search } = new URL(request.url)
    const headers = { ...request.headers }
    delete headers['proxy-connection']
    const onward = http.request({ hostname, port, path: pathname + search, method: request.method, headers, agent: false })
    onward.on('socket', (socket) => this.sockets.push([`${request.method} ${pathname}${search}`, socket]))
    onward.on('response', (answer) => {
      this.answers.push({ path: pathname, status: answer.statusCode, headers: answer.headers })
      response.writeHead(answer.statusCode, answer.headers)
      answer.pipe(response)
    })
    onward.on('error', () => response.destroy())
    response.on('close', () => onward.destroy())
    request.pipe(onward)
  }

  /** What came over it until now, in bytes, heads included: of each request, the largest first. */
  get bytes() {
    return this.sockets.map(([what, socket]) => [what, socket.bytesRead]).sort((a, b) => b[1] - a[1])
  }

  get total() {
    return this.bytes.reduce((sum, [, bytes]) => sum + bytes, 0)
  }

  close() {
    this.server.close()
    this.server.closeAllConnections()
  }
}
