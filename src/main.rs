//! The program `slugline`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == slugline::process::HELPER_VERB) {
        return slugline::process::helper_main(args);
    }
    ExitCode::SUCCESS
}
