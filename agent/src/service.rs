//! `denyut-agent service`: the agent as a service of Windows.

use crate::config::Config;
use crate::system::{self, Requests};
use crate::{ConfigFile, block_on, join, run as running};
use anyhow::{Context, bail};
use clap::Subcommand;
use denyut_windows as windows;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a machine starts with.
const CONFIG: &str = include_str!("../../deploy/agent.toml");

#[derive(Subcommand)]
pub(crate) enum Action {
    /// Install the service, from each start of the machine on; takes an administrator
    Install {
        #[command(flatten)]
        file: ConfigFile,
        /// Join by this invitation first, unless the machine has joined; `-` reads it from the input
        #[arg(long, value_name = "INVITATION")]
        join: Option<String>,
    },
    /// Stop the service and remove it; its data stays
    Uninstall {
        /// Remove its configuration and its data, too
        #[arg(long)]
        purge: bool,
    },
    /// Start the service
    Start,
    /// Stop the service
    Stop,
    /// Say how the service is; `denyut-agent status` tells more while it runs
    Status,
    /// What the service manager starts
    #[command(hide = true)]
    Run {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// What that starts of a newer version, and stops by its input
    #[command(hide = true)]
    StandIn {
        #[command(flatten)]
        file: ConfigFile,
    },
}

/// Carries it out; [`run`] does `Run`.
pub(crate) async fn act(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Install { file, join } => install(&file.config, join.as_deref()).await?,
        Action::Uninstall { purge } => {
            windows::uninstall()?;
            println!("The service is removed.");
            let folder = system::folder();
            if purge {
                std::fs::remove_dir_all(&folder)
                    .with_context(|| format!("cannot remove {}", folder.display()))?;
                println!("{} is removed.", folder.display());
            } else {
                println!("What it kept stays in {}.", folder.display());
            }
        }
        Action::Start => {
            windows::start()?;
            println!("The service runs.");
        }
        Action::Stop => {
            windows::stop()?;
            println!("The service has stopped.");
        }
        Action::Status => println!("{}", windows::state()?.unwrap_or("not installed")),
        Action::Run { .. } => bail!("the service manager starts this by itself"),
        Action::StandIn { file } => {
            running::log_to_event_log()?;
            let ended = running::run(&file.config, Requests::Service(system::passed_on())).await;
            return ended.inspect_err(|error| tracing::error!("{error:#}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn install(config: &Path, invitation: Option<&str>) -> anyhow::Result<()> {
    let folder = system::folder();
    windows::take_folder(&folder).with_context(|| {
        format!(
            "cannot make {} (it takes an administrator)",
            folder.display()
        )
    })?;
    if !config.exists() {
        std::fs::write(config, CONFIG)
            .with_context(|| format!("cannot write {}", config.display()))?;
        println!("Wrote {}.", config.display());
    }
    let read = Config::load_to_run(config)?;
    if let Some(invitation) = invitation {
        // So that an installer may run this again, over what is there.
        if crate::identity::Identity::read(&read.data_dir)?.is_none() {
            join(Some(invitation), &read, false).await?;
        }
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let arguments = ["service", "run", "--config"].map(OsString::from);
    let config = std::path::absolute(config).context("cannot tell where the configuration is")?;
    let arguments: Vec<OsString> = arguments.into_iter().chain([config.into()]).collect();
    windows::install(&program, &arguments)?;
    windows::start()?;
    println!("The service is installed, and runs.");
    Ok(())
}

/// The service itself, on behalf of the service manager.
pub(crate) fn run(config: PathBuf) -> ExitCode {
    let dispatched = windows::dispatch(move |asked| {
        let work = running::run(&config, Requests::Service(asked));
        if let Err(error) = running::log_to_event_log() {
            eprintln!("error: {error:#}");
        }
        block_on(work)
            .inspect_err(|error| tracing::error!("{error:#}"))
            .is_ok()
    });
    match dispatched {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: this is for the service manager alone: {error}");
            ExitCode::FAILURE
        }
    }
}
