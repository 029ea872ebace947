//! denyutctl: the operator's command line. It asks a collector by its public API, and tells it what to do.

mod arguments;
mod check;
mod client;
mod commands;
mod plot;
mod show;
mod watch;
mod words;

use arguments::{Arguments, Command};
use clap::{CommandFactory, Parser};
use client::Client;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // A monitoring program takes the usual code of a wrong command line for a finding.
        Err(error) if error.use_stderr() && is_check() => {
            error.print().ok();
            return check::unknown("the command line is wrong: see `denyutctl check --help`");
        }
        Err(error) => error.exit(),
    };
    let done = match arguments.command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "denyutctl", &mut text);
            std::io::stdout().write_all(&text).map_err(Into::into)
        }
        Command::Version => show::line(concat!("denyutctl ", env!("CARGO_PKG_VERSION"))),
        Command::Man { to } => std::fs::create_dir_all(&to)
            .and_then(|()| clap_mangen::generate_to(Arguments::command(), &to))
            .map_err(|error| {
                anyhow::Error::from(error).context(format!("cannot write to {}", to.display()))
            }),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let run = async |command| {
                let client = Client::new(&arguments.collector);
                if let Command::Check(check) = command {
                    return Ok(Some(check::check(client, check).await));
                }
                let client = client?;
                let show = show::Show::new(arguments.output);
                commands::run(&client, &show, command).await.map(|()| None)
            };
            let done = runtime
                .map_err(anyhow::Error::from)
                .and_then(|runtime| runtime.block_on(run(command)));
            match done {
                // What it found is its code.
                Ok(Some(code)) => return code,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever reads went away: that is no failure to be told of.
            let is_gone = error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe);
            if !is_gone {
                // Where nobody takes that either, the exit code says it.
                writeln!(std::io::stderr(), "error: {error:#}").ok();
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether the command line, be it right or wrong, is that of a check.
fn is_check() -> bool {
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        let word = word.to_string_lossy();
        if !word.starts_with('-') {
            return word == "check";
        }
        // All options that may stand before a command have a value.
        if !word.contains('=') {
            words.next();
        }
    }
    false
}
