//! The packages, on the machines that they are for: a Debian of its own under systemd, and Windows as far as Wine is one.

use crate::elsewhere;
use denyut_tests::machine::Machine;
use denyut_tests::release::{Publisher, kind, other_version};
use denyut_tests::wine::Wine;
use denyut_tests::{agent_elsewhere, eventually, made, said};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const WITHIN: Duration = Duration::from_secs(60);
const REGISTRY: &str = "[[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\n";

/// The package as `deploy/package --profile dev` made it; see [`made`].
fn package(name: &str) -> Option<PathBuf> {
    made(&format!("packages/{name}"))
}

/// A machine with both packages on it.
struct Debian {
    machine: Machine,
    runtime: tokio::runtime::Runtime,
}

impl Debian {
    fn install(packages: &[PathBuf]) -> Option<Self> {
        let machine = Machine::start()?;
        machine.write("/etc/hosts", "127.0.0.1 localhost\n");
        // We ask what listens there.
        machine.move_to();
        denyut_tests::install_crypto();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let debian = Self { machine, runtime };
        for package in packages {
            debian.put_on(package);
        }
        Some(debian)
    }

    /// Installs a package, which leaves every configuration that is there as it is.
    fn put_on(&self, package: &Path) {
        fs::copy(package, self.machine.path("/root/package.deb")).expect("copies");
        self.machine
            .on(&["dpkg", "--install", "--force-confold", "/root/package.deb"]);
    }

    /// Asks through the socket, which lies in the machine's folder.
    fn get(&self, path: &str) -> Option<Value> {
        let socket = self.machine.path("/var/lib/denyut-collector/control");
        let client = reqwest::Client::builder().unix_socket(socket).build();
        let asked = client.ok()?.get(format!("http://localhost{path}"));
        self.runtime.block_on(async {
            let answer = asked.send().await.ok()?;
            answer.error_for_status().ok()?.json().await.ok()
        })
    }

    /// Waits until the office's one agent is up; returns its id.
    fn agent(&self) -> String {
        Self::wait("the agent is up", || {
            let office = self.get("/api/v1/offices/36.73.02")?;
            let agents = office["agents"].as_array()?;
            assert!(agents.len() <= 1, "{office}");
            let agent = agents.first()?;
            (agent["state"] == "up").then(|| agent["agent"].as_str().map(str::to_owned))?
        })
    }

    /// How many samples of its own port there are.
    fn samples(&self, agent: &str) -> Option<usize> {
        let path = format!("/api/v1/offices/36.73.02/links/{agent}/port/samples");
        Some(self.get(&path)?["samples"].as_array()?.len())
    }

    fn wait<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
        let give_up = std::time::Instant::now() + WITHIN;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(std::time::Instant::now() < give_up, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// One thing that systemd knows of a service.
    fn shown(&self, service: &str, property: &str) -> String {
        let property = format!("--property={property}");
        self.machine
            .on(&["systemctl", "show", "--value", &property, service])
    }

    /// Waits until systemd has started the service again by itself, and it says that it is ready.
    fn restarted(&self, service: &str) {
        Self::wait("it is started again", || {
            let again = self.shown(service, "NRestarts") != "0";
            (again && self.shown(service, "ActiveState") == "active").then_some(())
        });
    }

    /// Who owns a file there, and who may do what with it.
    fn rights(&self, path: &str) -> String {
        self.machine.on(&["stat", "--format=%U %a", path])
    }
}

/// The same package with a higher version, as the next release would be.
fn next_release(package: &Path, folder: &Path) -> PathBuf {
    let run = |line: &[&std::ffi::OsStr]| {
        let ran = Command::new("dpkg-deb").args(line).output().expect("runs");
        assert!(ran.status.success(), "{}", said(&ran));
    };
    let name = package.file_name().expect("a file").to_string_lossy();
    let (tree, next) = (folder.join("tree"), folder.join(name.replace("_0.", "_9.")));
    run(&["-R".as_ref(), package.as_ref(), tree.as_ref()]);
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).expect("reads");
    fs::write(&control, text.replace("\nVersion: 0.", "\nVersion: 9.")).expect("writes");
    // What came with the release is other than before: an untouched configuration would be replaced, an edited one must stay.
    let own = tree.join("etc/denyut");
    for file in fs::read_dir(own).expect("reads").flatten() {
        let text = fs::read_to_string(file.path()).expect("reads");
        fs::write(file.path(), text + "\n# of the next release\n").expect("writes");
    }
    run(&["-b".as_ref(), tree.as_ref(), next.as_ref()]);
    fs::remove_dir_all(tree).expect("removes");
    next
}

/// Both services, by name.
const SERVICES: [&str; 2] = ["denyut-agent", "denyut-collector"];

/// One office, and two targets that are there: the collector's page, and loopback.
fn configure(debian: &Debian) {
    let file = debian.machine.path("/etc/denyut/collector.toml");
    let packaged = fs::read_to_string(&file).expect("is there");
    let listens = "listen = \"127.0.0.1:7443\"\n";
    assert_eq!(packaged.matches(listens).count(), 1, "{packaged}");
    let named = packaged.replace(listens, &format!("{listens}names = [\"localhost\"]\n"));
    let all = format!("{named}\n[calendar]\nhours = \"always\"\n{REGISTRY}");
    fs::write(file, all).expect("writes");
    let target = |name: &str, role: &str, probe: &str| {
        format!(
            "[[target]]\nname = \"{name}\"\nrole = \"{role}\"\nprobe = \"{probe}\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n"
        )
    };
    let agent = [
        "heartbeat = \"1s\"\n[collector]\nreconnect_max = \"1s\"\n[budget]\nkb_per_day = 0\n",
        &target("port", "server", "tcp://127.0.0.1:7080"),
        &target("ping", "uplink", "icmp://127.0.0.1"),
    ];
    debian
        .machine
        .write("/etc/denyut/agent.toml", &agent.concat());
}

/// Installed they run: each as its own user, on its own folder, and are let do little else.
fn is_confined(debian: &Debian, service: &str) {
    assert_eq!(debian.shown(service, "ActiveState"), "active");
    let data = format!("/var/lib/{service}");
    assert_eq!(debian.rights(&data), format!("{service} 750"));
    let analyze = ["systemd-analyze", "security", "--no-pager", service];
    let report = debian.machine.on(&analyze);
    let verdict = report
        .lines()
        .find(|line| line.contains("exposure level for"));
    let exposure: Option<f64> = verdict
        .and_then(|line| line.rsplit(": ").next()?.split(' ').next())
        .and_then(|word| word.parse().ok());
    let exposure = exposure.unwrap_or_else(|| panic!("{report}"));
    assert!(exposure <= 1.5, "{report}");
}

/// Killed, or hung so that it does not say any more that it is well, it is started again.
fn is_looked_after(debian: &Debian) {
    let on = |line: &[&str]| debian.machine.on(line);
    for service in SERVICES {
        on(&["systemctl", "kill", "--signal=KILL", service]);
        debian.restarted(service);
        let hurried = "[Service]\nWatchdogSec=5\nRestartSec=1\nTimeoutAbortSec=1\n";
        let folder = format!("/run/systemd/system/{service}.service.d");
        on(&["mkdir", "--parents", &folder]);
        on(&[
            "sh",
            "-c",
            &format!("printf '{hurried}' >{folder}/hurried.conf"),
        ]);
        on(&["systemctl", "daemon-reload"]);
        on(&["systemctl", "restart", service]);
    }
    // Twice the time in which it must say that it is well.
    std::thread::sleep(Duration::from_secs(10));
    for service in SERVICES {
        assert_eq!(
            debian.shown(service, "NRestarts"),
            "0",
            "{service} was hung"
        );
        on(&["systemctl", "kill", "--signal=STOP", service]);
        debian.restarted(service);
    }
}

/// What `deploy/README.md` says of a backup, and of going back to it.
fn goes_back_to_a_backup(debian: &Debian) {
    let as_collector = |line: &str| {
        let run = ["runuser", "-u", "denyut-collector", "--"];
        let line: Vec<&str> = run.into_iter().chain(line.split(' ')).collect();
        debian.machine.run(&line)
    };
    let backup = |to: &str| as_collector(&format!("denyut-collector backup --to {to}"));
    let refused = said(&backup("/srv/before"));
    assert!(refused.contains("ReadWritePaths="), "{refused}");
    let before = "/var/backups/denyut-collector/before";
    let copied = backup(before);
    assert!(copied.status.success(), "{}", said(&copied));
    let data = "/var/lib/denyut-collector";
    let service = |what: &str| debian.machine.on(&["systemctl", what, "denyut-collector"]);
    service("stop");
    debian
        .machine
        .on(&["mv", data, "/var/lib/denyut-collector.new"]);
    let owner = "-o denyut-collector -g denyut-collector -m 0750";
    let folder = format!("install -d {owner} {data}");
    debian.machine.on(&folder.split(' ').collect::<Vec<_>>());
    let restored = as_collector(&format!("denyut-collector restore --from {before}"));
    assert!(restored.status.success(), "{}", said(&restored));
    service("start");
}

/// Confined as it is, it takes an update: for systemd it is the same process, and it is what is started again when that is killed.
fn updates_itself(debian: &Debian) {
    let publisher = Publisher::start();
    let config = debian.machine.path("/etc/denyut/agent.toml");
    let text = fs::read_to_string(&config).expect("is there");
    fs::write(&config, text + publisher.section("30s").as_str()).expect("writes");
    debian.machine.on(&["systemctl", "restart", "denyut-agent"]);
    let process = debian.shown("denyut-agent", "MainPID");
    let installed = debian.machine.path("/usr/bin/denyut-agent");
    let next = tempfile::NamedTempFile::new().expect("makes");
    other_version(&installed, "9.9.9", next.path());
    publisher.publish("9.9.9", &kind(), next.path());
    let runs = || {
        let office = debian.get("/api/v1/offices/36.73.02")?;
        let agent = &office["agents"][0];
        (agent["state"] == "up" && agent["version"] == "9.9.9").then_some(())
    };
    Debian::wait("the newer version runs", runs);
    assert_eq!(debian.shown("denyut-agent", "MainPID"), process);
    let kept = || {
        let state = debian
            .machine
            .path("/var/lib/denyut-agent/update/state.json");
        let state: Value = serde_json::from_slice(&fs::read(state).ok()?).ok()?;
        (state["kept"]["version"] == "9.9.9").then_some(())
    };
    Debian::wait("it is kept", kept);
    debian
        .machine
        .on(&["systemctl", "kill", "--signal=KILL", "denyut-agent"]);
    debian.restarted("denyut-agent");
    let shown = || {
        let status = debian.machine.run(&["denyut-agent", "status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).ok()?;
        (status["version"] == "9.9.9").then_some(())
    };
    Debian::wait("it runs again", shown);
}

/// Removed they leave the data, purged nothing.
fn goes(debian: &Debian, service: &str) {
    let is_there = |path: &str| debian.machine.path(path).exists();
    let data = format!("/var/lib/{service}");
    let config = service.replace("denyut-", "/etc/denyut/") + ".toml";
    debian.machine.on(&["dpkg", "--remove", service]);
    assert!(is_there(&data) && is_there(&config));
    debian.machine.on(&["id", service]);
    debian.machine.on(&["dpkg", "--purge", service]);
    assert!(!is_there(&data) && !is_there(&config));
    assert!(!debian.machine.run(&["id", service]).status.success());
}

#[test]
fn the_debian_packages_install_run_upgrade_and_go() {
    let deb = |service: &str| package(&format!("{service}_{VERSION}-1_{}.deb", architecture()));
    let packages: Vec<PathBuf> = SERVICES.iter().filter_map(|name| deb(name)).collect();
    if packages.len() < SERVICES.len() {
        return;
    }
    let Some(debian) = Debian::install(&packages) else {
        return;
    };
    let on = |line: &[&str]| debian.machine.on(line);
    for service in SERVICES {
        is_confined(&debian, service);
    }

    configure(&debian);
    on(&["systemctl", "restart", "denyut-collector"]);
    let create = "denyutctl invitation create --office 36.73.02";
    let line = on(&create.split(' ').collect::<Vec<_>>());
    let invitation = line.split('\'').nth(1).expect("a quoted line");
    on(&["denyut-agent", "join", invitation]);
    on(&["systemctl", "restart", "denyut-agent"]);
    let id = debian.agent();
    let identity = debian.rights("/var/lib/denyut-agent/identity.json");
    assert_eq!(identity, "denyut-agent 600");
    let both_up = || {
        let office = debian.get("/api/v1/offices/36.73.02")?;
        let mut links = office["links"].as_array()?.iter();
        (office["links"].as_array()?.len() == 2 && links.all(|link| link["state"] == "up"))
            .then_some(())
    };
    Debian::wait("both links are up", both_up);

    is_looked_after(&debian);
    assert_eq!(debian.agent(), id);

    // The next release keeps who it is, what it knows, and what was configured; so does the way back.
    let had = debian.samples(&id).expect("samples");
    let dir = tempfile::tempdir().expect("tempdir");
    for next in packages.iter().map(|old| next_release(old, dir.path())) {
        debian.put_on(&next);
    }
    for service in SERVICES {
        let version = on(&["dpkg-query", "--show", "--showformat=${Version}", service]);
        assert!(version.starts_with("9."), "{version}");
        assert_eq!(debian.shown(service, "ActiveState"), "active");
    }
    assert_eq!(debian.agent(), id);
    for old in &packages {
        debian.put_on(old);
    }
    assert_eq!(debian.agent(), id);
    let more = || (debian.samples(&id)? > had).then_some(());
    Debian::wait("more samples", more);
    goes_back_to_a_backup(&debian);
    assert_eq!(debian.agent(), id);
    let had = debian.samples(&id).expect("samples");
    Debian::wait("samples go on", || {
        (debian.samples(&id)? > had).then_some(())
    });
    updates_itself(&debian);
    let config = fs::read_to_string(debian.machine.path("/etc/denyut/collector.toml"));
    assert!(config.expect("is there").contains(REGISTRY));

    for service in SERVICES {
        goes(&debian, service);
    }
    assert!(!debian.machine.path("/etc/denyut").exists());
}

/// What this Debian calls this kind of machine.
fn architecture() -> String {
    let told = Command::new("dpkg").arg("--print-architecture").output();
    let told = told.expect("runs").stdout;
    String::from_utf8_lossy(&told).trim().to_owned()
}

/// The installer, as the next release would be.
fn next_installer(folder: &Path) -> PathBuf {
    let program = agent_elsewhere("x86_64-win7-windows-gnu", "denyut-agent.exe");
    // The installer's sources name files from where they are.
    fs::copy(program.expect("is built"), folder.join("program")).expect("copies");
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let example = folder.join("example");
    fs::create_dir_all(&example).expect("makes");
    fs::copy(
        deploy.join("example/agent.toml"),
        example.join("agent.toml"),
    )
    .expect("copies");
    let sources = folder.join("windows");
    fs::create_dir_all(&sources).expect("makes");
    fs::copy(deploy.join("windows/agent.wxs"), sources.join("agent.wxs")).expect("copies");
    let made = Command::new("wixl")
        .args([
            "-a",
            "x64",
            "-D",
            "Version=9.0.0",
            "-D",
            "Program=../program",
        ])
        .args(["-o", "next.msi", "windows/agent.wxs"])
        .current_dir(folder)
        .output()
        .expect("runs");
    assert!(made.status.success(), "{}", said(&made));
    folder.join("next.msi")
}

#[tokio::test]
async fn the_windows_installer_joins_upgrades_and_goes() {
    let Some(installer) = package(&format!("denyut-agent-{VERSION}-x64.msi")) else {
        return;
    };
    let collector = elsewhere::collector().await;
    let wine = Wine::start();
    let folder = wine.c("ProgramData/denyut");
    fs::create_dir_all(&folder).expect("makes");
    let config = elsewhere::config(&collector, "");
    fs::write(folder.join("agent.toml"), &config).expect("writes");
    let program = wine.c("Program Files/denyut/denyut-agent.exe");
    let msiexec = |action: &str, package: &Path, more: &[&str]| {
        let path = wine.path_of(package);
        let line = [&[action, &path, "/qn"], more].concat();
        elsewhere::run(&wine, Path::new("msiexec"), &line);
    };

    let join = format!("JOIN={}", collector.invite(&[]));
    msiexec("/i", &installer, &[&join]);
    let known = elsewhere::agent(&collector, "up").await;
    elsewhere::links_up(&collector).await;

    let dir = tempfile::tempdir().expect("tempdir");
    let next = next_installer(dir.path());
    let had = elsewhere::samples(&collector, known["agent"].as_str().expect("text")).await;
    msiexec("/i", &next, &[]);
    let now = elsewhere::agent(&collector, "up").await;
    assert_eq!(now["agent"], known["agent"]);
    let id = known["agent"].as_str().expect("text");
    let more = || async { (elsewhere::samples(&collector, id).await > had + 2).then_some(()) };
    eventually("more samples", WITHIN, more).await;
    let kept = fs::read_to_string(folder.join("agent.toml"));
    assert_eq!(kept.expect("is there"), config);

    msiexec("/x", &next, &[]);
    elsewhere::agent(&collector, "closed").await;
    assert!(!program.exists());
    // Like every installer it leaves what the machine has since made.
    assert!(folder.join("data/identity.json").exists());
}
