//! A Debian machine of its own, with systemd as its service manager. Switched off and gone when dropped.

use nix::sched::{CloneFlags, setns};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The machine.
#[derive(Debug)]
pub struct Machine {
    name: String,
    dir: TempDir,
    /// Ends the machine when it ends.
    keeper: Child,
    /// The machine's first process.
    init: u32,
}

static MACHINES: AtomicU32 = AtomicU32::new(0);

impl Machine {
    /// Boots one from a copy of the system in `target/debian`; see [`made`](crate::made).
    #[must_use]
    pub fn start() -> Option<Self> {
        let system = crate::made("debian")?;
        let number = MACHINES.fetch_add(1, Ordering::Relaxed);
        let name = format!("dn{}m{number}", std::process::id());
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("root");
        let copied = Command::new("cp")
            .args(["-a"])
            .arg(&system)
            .arg(&root)
            .status();
        assert!(copied.expect("runs").success());
        let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/boot");
        let log = File::create(dir.path().join("boot.log")).expect("creates");
        let keeper = Command::new(boot)
            .arg(&root)
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clones"))
            .stderr(log)
            .spawn()
            .expect("starts");
        let mut machine = Self {
            name,
            dir,
            keeper,
            init: 0,
        };
        machine.wait_until_up();
        Some(machine)
    }

    fn wait_until_up(&mut self) {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            let keeper = self.keeper.id();
            let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
            let init = children.unwrap_or_default().trim().parse();
            if let Ok(init) = init {
                self.init = init;
                // Until the root is its own, nothing may be done there: it would be done to ours.
                let is_on = fs::read_to_string(format!("/proc/{init}/comm"));
                if is_on.is_ok_and(|name| name.trim() == "systemd") {
                    // Before its service manager listens it says nothing, and then waits.
                    let state = self.run(&["systemctl", "is-system-running", "--wait"]);
                    if ["running", "degraded"].contains(&crate::said(&state).trim()) {
                        return;
                    }
                }
            }
            let ended = self.keeper.try_wait().expect("can be asked");
            assert!(
                ended.is_none() && Instant::now() < give_up,
                "the machine does not start: {}",
                fs::read_to_string(self.dir.path().join("boot.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a program there to its end.
    pub fn run(&self, line: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--root", "--wd=/", "--target"])
            .arg(self.init.to_string())
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(line);
        command.stdin(Stdio::null()).output().expect("runs")
    }

    /// Runs a program there, which must end well; returns what it says on its standard output.
    pub fn on(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert!(
            output.status.success(),
            "{line:?}: {}",
            crate::said(&output)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Where a path of it (`/etc/…`) is for us.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir
            .path()
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    /// Writes a file there.
    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).expect("writes");
    }

    /// Moves the calling thread's network, and what it starts from now on, there.
    pub fn move_to(&self) {
        let path = format!("/proc/{}/ns/net", self.init);
        let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("may move");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init > 0 {
            let journal = self.run(&["journalctl", "--no-pager", "--lines=80"]);
            eprintln!("--- its journal\n{}", crate::said(&journal));
        }
        self.keeper.kill().ok();
        self.keeper.wait().ok();
        // Its cgroups are empty once all that ran there has ended.
        let give_up = Instant::now() + Duration::from_secs(10);
        let trees = ["", "systemd", "unified", "memory", "pids"];
        for tree in trees.map(|tree| Path::new("/sys/fs/cgroup").join(tree).join(&self.name)) {
            while tree.exists() && Instant::now() < give_up {
                let mut remove = Command::new("find");
                remove.arg(&tree).args(["-depth", "-type", "d", "-delete"]);
                remove.stderr(Stdio::null()).status().ok();
            }
        }
    }
}
