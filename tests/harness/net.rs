//! Hosts as network namespaces, cables as veth pairs. All are gone when the [`Net`] is dropped.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A set of hosts with names of their own on this machine.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    hosts: Vec<String>,
}

static NETS: AtomicU32 = AtomicU32::new(0);

impl Net {
    /// An empty one; `None`, said loudly, where the machine cannot make namespaces. With `CI` set that is a failure.
    pub fn new() -> Option<Self> {
        let number = NETS.fetch_add(1, Ordering::Relaxed);
        let mut net = Self {
            prefix: format!("dn{}x{number}", std::process::id()),
            hosts: Vec::new(),
        };
        if let Err(error) = net.try_host("probe") {
            let text = format!("SKIPPED: this machine cannot make network namespaces: {error}");
            assert!(std::env::var_os("CI").is_none(), "{text}");
            // Past the test runner's capture too.
            eprintln!("\n*** {text} ***\n");
            if let Ok(mut terminal) = File::options().write(true).open("/dev/tty") {
                writeln!(terminal, "\n*** {text} ***\n").ok();
            }
            return None;
        }
        Some(net)
    }

    /// Adds a host.
    pub fn host(&mut self, name: &str) {
        self.try_host(name)
            .unwrap_or_else(|error| panic!("host {name}: {error}"));
    }

    fn try_host(&mut self, name: &str) -> Result<(), String> {
        let full = self.name(name);
        run("ip", &["netns", "add", &full], None)?;
        self.hosts.push(full);
        self.try_on(name, "ip link set lo up")
    }

    /// The namespace of a host.
    pub fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs a command line on a host; it must succeed.
    pub fn on(&self, host: &str, line: &str) {
        self.try_on(host, line)
            .unwrap_or_else(|error| panic!("{host}: {line}: {error}"));
    }

    fn try_on(&self, host: &str, line: &str) -> Result<(), String> {
        let name = self.name(host);
        let mut arguments = vec!["netns", "exec", name.as_str()];
        arguments.extend(line.split_whitespace());
        run("ip", &arguments, None)
    }

    /// Loads nft rules on a host.
    pub fn nft(&self, host: &str, rules: &str) {
        let name = self.name(host);
        run(
            "ip",
            &["netns", "exec", &name, "nft", "-f", "-"],
            Some(rules),
        )
        .unwrap_or_else(|error| panic!("{host}: nft: {error}"));
    }

    /// A cable between two hosts: an interface of the given name at each end, up.
    pub fn cable(&self, (host, interface): (&str, &str), (other, other_interface): (&str, &str)) {
        let (one, two) = (self.name(host), self.name(other));
        let pair = [
            "link",
            "add",
            interface,
            "netns",
            &one,
            "type",
            "veth",
            "peer",
            "name",
            other_interface,
            "netns",
            &two,
        ];
        run("ip", &pair, None).unwrap_or_else(|error| panic!("cable {host}–{other}: {error}"));
        self.on(host, &format!("ip link set {interface} up"));
        self.on(other, &format!("ip link set {other_interface} up"));
    }

    /// Does something on a host; sockets that it makes stay there.
    pub fn within<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.move_to(host);
                work()
            });
            there.join().expect("works there")
        })
    }

    /// Moves the calling thread, and what it starts from now on, to a host.
    pub fn move_to(&self, host: &str) {
        let path = format!("/run/netns/{}", self.name(host));
        let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("may move");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in &self.hosts {
            if let Err(error) = run("ip", &["netns", "delete", host], None) {
                eprintln!("cannot delete the namespace {host}: {error}");
            }
        }
    }
}

fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<(), String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin
            .write_all(input.as_bytes())
            .map_err(|error| error.to_string())?;
    }
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
