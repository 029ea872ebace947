//! A Windows machine as far as Wine is one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A machine of its own: drive, registry, services. Switched off when dropped.
#[derive(Debug)]
pub struct Wine {
    folder: TempDir,
    /// A prompt that waits: without a program that runs, Wine switches the machine off.
    prompt: Option<Child>,
}

impl Wine {
    /// Starts a new one.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        let mut wine = Self {
            folder,
            prompt: None,
        };
        let booted = wine.command("wineboot").arg("--init").status();
        assert!(booted.expect("Wine is installed").success());
        // What is still being set up would forget what is installed meanwhile.
        wine.command("wineserver").arg("-w").status().ok();
        wine.switch_on();
        wine
    }

    fn switch_on(&mut self) {
        let mut prompt = self.command("wine");
        prompt.arg("cmd").stdin(Stdio::piped());
        let prompt = prompt.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.prompt = Some(prompt.expect("Wine is installed"));
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("WINEPREFIX", self.folder.path())
            .env("WINEDEBUG", "-all")
            // Nothing asks to install what it lacks.
            .env("WINEDLLOVERRIDES", "mscoree=;mshtml=")
            .env_remove("DISPLAY")
            .stdin(Stdio::null());
        command
    }

    /// Runs a program of it to its end.
    pub fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = self.command("timeout");
        command.args(["60", "wine"]).arg(program).args(arguments);
        // Through files: what the machine starts meanwhile would keep a pipe open.
        let path = |name: &str| self.folder.path().join(name);
        let file = |name: &str| fs::File::create(path(name)).expect("makes");
        let ended = command.stdout(file("out")).stderr(file("err")).status();
        let read = |name: &str| fs::read(path(name)).expect("reads");
        Output {
            status: ended.expect("Wine is installed"),
            stdout: read("out"),
            stderr: read("err"),
        }
    }

    /// Where a path of drive C is for us.
    pub fn c(&self, path: &str) -> PathBuf {
        self.folder.path().join("drive_c").join(path)
    }

    /// What a path of ours is there.
    pub fn path_of(&self, path: &Path) -> String {
        format!("Z:{}", path.display().to_string().replace('/', "\\"))
    }

    /// The processes whose command line holds this text.
    fn processes(&self, holds: &str) -> Vec<i32> {
        let mark = format!("WINEPREFIX={}", self.folder.path().display());
        let is_it = |pid: &i32| {
            let read = |what| fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            let has = |bytes: Vec<u8>, text: &str| {
                String::from_utf8_lossy(&bytes)
                    .split('\0')
                    .any(|part| part.contains(text))
            };
            has(read("environ"), &mark) && has(read("cmdline"), holds)
        };
        let entries = fs::read_dir("/proc").expect("reads").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(is_it).collect()
    }

    /// Ends by SIGKILL what runs with this text in its command line; returns how many there were.
    pub fn kill(&self, holds: &str) -> usize {
        let pids = self.processes(holds);
        for pid in &pids {
            let pid = rustix::process::Pid::from_raw(*pid).expect("not zero");
            // It may have ended since.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        pids.len()
    }

    /// Cuts its power and switches it on again: its services start by themselves.
    pub fn restart(&mut self) {
        self.cut();
        self.switch_on();
    }

    fn cut(&mut self) {
        // Ends the server of this machine and all that it runs, and waits for it.
        for end in ["-k", "-w"] {
            self.command("wineserver").arg(end).status().ok();
        }
        if let Some(mut prompt) = self.prompt.take() {
            prompt.kill().ok();
            prompt.wait().ok();
        }
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        self.cut();
    }
}
