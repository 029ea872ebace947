//! evaluate: how outages, flapping and relapses are judged, by us and by others, on the same events.
//!
//! `evaluate run` plays labelled scenes, drawn from seeds, to the detector and to the rules of other products, and prints what each made of them;
//! `evaluate recorded` does so with a recorded history; `evaluate cost` measures the detector. `evaluate baseline` runs the rule of one other product over a
//! recorded history, so that anyone can hold it against that product's own published examples.

mod baseline;
mod cost;
mod office;
mod play;
mod run;
mod scenes;
mod score;

use anyhow::Context;
use baseline::{Gatus, Icinga2, Nagios, PrometheusFor, Rfd, Turn};
use clap::{Args, Parser, Subcommand};
use denyut_detect::recorded;
use denyut_proto::UnixMillis;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Judges the rules that tell when a link is in trouble
#[derive(Parser)]
#[command(name = "evaluate", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Play labelled scenes to the detector and to other products' rules, and print what each made of them
    Run(run::Run),
    /// Play a recorded history to the detector, and print what it made of it beside other products' rules
    Recorded(cost::RecordedRun),
    /// Measure the detector: time per sample, memory per link, a national month
    Cost(cost::Cost),
    /// Print the starts and stops that one product's rule gives for one recorded history
    #[command(subcommand)]
    Baseline(Rule),
}

#[derive(Subcommand)]
enum Rule {
    /// Icinga 2: weighted share of changes among the last 20 results
    Icinga2 {
        #[command(flatten)]
        rule: Icinga2,
        #[command(flatten)]
        of: Recorded,
    },
    /// Nagios Core: weighted share of changes among the last 21 hard states
    Nagios {
        #[command(flatten)]
        rule: Nagios,
        #[command(flatten)]
        of: Recorded,
    },
    /// Gatus: failures and successes in a row
    Gatus {
        #[command(flatten)]
        rule: Gatus,
        #[command(flatten)]
        of: Recorded,
    },
    /// A Prometheus alerting rule with `for` and `keep_firing_for`
    PrometheusFor {
        #[command(flatten)]
        rule: PrometheusFor,
        #[command(flatten)]
        of: Recorded,
    },
    /// BGP route-flap damping (RFC 2439)
    Rfd {
        #[command(flatten)]
        rule: Rfd,
        #[command(flatten)]
        of: Recorded,
    },
}

#[derive(Args)]
struct Recorded {
    /// A CSV file with the columns unix_s,site,state,http_status,latency_ms (state: up, degraded or down); each line is one check
    csv: PathBuf,
    /// Which site; may be left out where the file has one only
    #[arg(long)]
    site: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reads a recorded history.
fn read(path: &Path) -> anyhow::Result<recorded::Recorded> {
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    recorded::parse(file).with_context(|| path.display().to_string())
}

type Judge<'a> = Box<dyn Fn(&[recorded::Check]) -> Vec<Turn> + 'a>;

fn run(command: &Command) -> anyhow::Result<()> {
    let rule = match command {
        Command::Run(run) => return run.run(),
        Command::Recorded(recorded) => return recorded.run(),
        Command::Cost(cost) => return cost.run(),
        Command::Baseline(rule) => rule,
    };
    let (of, judge): (&Recorded, Judge<'_>) = match rule {
        Rule::Icinga2 { rule, of } => (of, Box::new(|checks| rule.run(checks))),
        Rule::Nagios { rule, of } => (of, Box::new(|checks| rule.run(checks))),
        Rule::Gatus { rule, of } => (of, Box::new(|checks| rule.run(checks))),
        Rule::PrometheusFor { rule, of } => (of, Box::new(|checks| rule.run(checks))),
        Rule::Rfd { rule, of } => (of, Box::new(|checks| rule.run(checks))),
    };
    let checks = recorded::site(read(&of.csv)?, of.site.as_deref())?;
    let turns = judge(&checks);
    if of.json {
        println!("{}", serde_json::to_string(&turns)?);
        return Ok(());
    }
    for turn in &turns {
        #[allow(clippy::cast_possible_truncation, reason = "milliseconds of our time")]
        let at = UnixMillis((turn.at_s * 1e3).round() as i64);
        let what = if turn.begins { "start" } else { "stop " };
        println!("{what}  {at}  {:.3}", turn.value);
    }
    if turns.is_empty() {
        println!("no start in {} checks", checks.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_sound_and_do_what_they_say() {
        Arguments::command().debug_assert();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let lines = (0..30).map(|i| {
            format!(
                "{},a,{},0,1\n",
                i * 60,
                if i % 2 == 0 { "up" } else { "down" }
            )
        });
        let text = lines.collect::<String>();
        std::fs::write(
            file.path(),
            format!("unix_s,site,state,http_status,latency_ms\n{text}"),
        )
        .expect("writes");
        let path = file.path().to_str().expect("text");
        for rule in ["icinga2", "nagios", "gatus", "prometheus-for", "rfd"] {
            let arguments = ["evaluate", "baseline", rule, path];
            let arguments = Arguments::try_parse_from(arguments).expect("parses");
            run(&arguments.command).expect("runs");
        }
        let arguments = ["evaluate", "baseline", "gatus", path, "--site", "b"];
        let arguments = Arguments::try_parse_from(arguments).expect("parses");
        let error = run(&arguments.command).expect_err("no such site");
        assert!(error.to_string().contains("`--site` = `b`"), "{error}");
    }
}
