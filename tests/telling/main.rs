//! telling: how long it takes from a cut to the message that tells of it, beside Prometheus, blackbox_exporter and Alertmanager at the same targets; and what becomes of ten thousand
//! incidents in a minute.

mod cut;
mod storm;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Measures how outages are told
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// The results as JSON
    #[arg(long, global = true, default_value = "target/telling.json")]
    json: PathBuf,
}

#[derive(Subcommand)]
enum What {
    /// From a cut to its message, beside Prometheus + blackbox_exporter + Alertmanager
    Cut {
        /// Targets that are cut, one after the other; as many are not
        #[arg(long, default_value_t = 20)]
        cuts: usize,
        /// Both call without waiting whether it passes: `page_after` and `for` are 0
        #[arg(long)]
        eager: bool,
    },
    /// So many offices fail within a minute, and come back within another
    Storm {
        #[arg(long, default_value_t = 10_000)]
        incidents: usize,
    },
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    denyut_tests::install_crypto();
    denyut_tests::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let measured = match arguments.what {
        What::Cut { cuts, eager } => runtime.block_on(cut::measure(cuts, eager))?,
        What::Storm { incidents } => runtime.block_on(storm::measure(incidents))?,
    };
    std::fs::write(&arguments.json, serde_json::to_vec_pretty(&measured)?)?;
    Ok(())
}
