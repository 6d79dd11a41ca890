//! The program `slugline`.

use std::process::ExitCode;

use clap::Parser as _;
use slugline::cli::args::{Cli, Command};
use slugline::{process, runtime};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // The supervisor of one command: before anything else, because it has to stay small.
    if args.next().is_some_and(|verb| verb == process::HELPER_VERB) {
        return process::helper_main(args);
    }
    match Cli::try_parse() {
        Ok(Cli { command: Command::Serve(serve) }) => runtime::serve(&serve),
        Ok(Cli { command: Command::Health(health) }) => runtime::health(&health),
        Ok(Cli { command: Command::Doctor(doctor) }) => runtime::doctor(&doctor),
        Ok(Cli { command: Command::Console(console) }) => runtime::console(&console),
        Ok(Cli { command: Command::Backup(backup) }) => runtime::backup(&backup),
        Ok(Cli { command: Command::Restore(restore) }) => runtime::restore(&restore),
        Ok(Cli { command: Command::Check(check) }) => runtime::check(&check),
        Ok(Cli { command: Command::Token(token) }) => runtime::token(&token),
        Ok(Cli { command: Command::Demo(demo) }) => runtime::demo(&demo),
        Err(message) => {
            let _ = message.print();
            if message.use_stderr() { ExitCode::from(runtime::EXIT_USAGE) } else { ExitCode::SUCCESS }
        }
    }
}
