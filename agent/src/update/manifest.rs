//! What a manifest says: which version there is, and where its program is for each kind of system.

use crate::config::is_loopback;
use anyhow::{Context, ensure};
use minisign_verify::{PublicKey, Signature};
use reqwest::Url;
use ring::digest::{Context as Digest, SHA256};
use semver::Version;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of a manifest and of its signature, at most.
pub(super) const MANIFEST_MAX: u64 = 64 << 10;
pub(super) const SIGNATURE_MAX: u64 = 4 << 10;
/// Bytes of a program, at most.
const PROGRAM_MAX: u64 = 128 << 20;

/// A manifest whose signature is right. What it says beyond this is for later versions, and no reason to refuse it: an agent that did could never
/// be brought up to date.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: Version,
    /// Of a hundred agents, so many take it.
    #[serde(default = "everyone")]
    share: u8,
    /// By kind of system; see [`kind`].
    programs: BTreeMap<String, Program>,
}

fn everyone() -> u8 {
    100
}

/// One file.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Program {
    /// Where it is, from where the manifest is.
    pub(super) url: String,
    pub(super) bytes: u64,
    /// Hexadecimal.
    sha256: String,
}

/// What this program runs on, as manifests name it: `x86_64-linux`, `aarch64-linux`, `arm-linux`, `x86_64-windows`.
pub(super) fn kind() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

impl Manifest {
    /// Reads one that `key` signed (minisign's form, prehashed).
    pub(super) fn read(text: &[u8], signature: &str, key: &PublicKey) -> anyhow::Result<Self> {
        let signature = Signature::decode(signature).context("its signature cannot be read")?;
        key.verify(text, &signature, false)
            .context("it is not signed by `update.key`")?;
        Self::parse(text)
    }

    /// What its text says, whoever signed it.
    pub(super) fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let manifest: Self = serde_json::from_slice(text).context("it makes no sense")?;
        for (kind, program) in &manifest.programs {
            ensure!(
                (1..=PROGRAM_MAX).contains(&program.bytes),
                "`programs.{kind}.bytes` = `{}`: write 1 to {PROGRAM_MAX}",
                program.bytes
            );
        }
        Ok(manifest)
    }

    /// The program for this kind of system.
    pub(super) fn program(&self) -> anyhow::Result<&Program> {
        let kind = kind();
        self.programs
            .get(&kind)
            .with_context(|| format!("it has no program for {kind}"))
    }

    /// Whether an agent is one of those that take it.
    pub(super) fn is_for(&self, agent: &str) -> bool {
        let drawn = crc32c::crc32c(format!("{agent} {}", self.version).as_bytes()) % 100;
        drawn < u32::from(self.share)
    }
}

impl Program {
    /// Whether this file is it.
    pub(super) fn is_in(&self, file: &Path) -> anyhow::Result<bool> {
        let cannot = || format!("cannot read {}", file.display());
        let mut file = File::open(file).with_context(cannot)?;
        if file.metadata().with_context(cannot)?.len() != self.bytes {
            return Ok(false);
        }
        let mut digest = Digest::new(&SHA256);
        let mut part = vec![0; 64 << 10];
        loop {
            match file.read(&mut part).with_context(cannot)? {
                0 => break,
                read => digest.update(&part[..read]),
            }
        }
        let digest = digest.finish();
        let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Ok(self.sha256.eq_ignore_ascii_case(&hex.collect::<String>()))
    }
}

/// Where manifests come from and whose word is taken; see `deploy/example/agent.toml`.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) manifest: Url,
    pub(crate) key: PublicKey,
    /// An authority to trust beside the public ones; PEM.
    pub(crate) ca: Option<PathBuf>,
}

/// Whether nobody between here and there can change or listen to what is read from it.
pub(crate) fn is_safe(url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => url.host_str().is_some_and(is_loopback),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(share: &str, bytes: u64) -> anyhow::Result<Manifest> {
        let program = format!(r#"{{ "url": "a", "bytes": {bytes}, "sha256": "ab" }}"#);
        Manifest::parse(
            format!(
                r#"{{ "version": "1.2.3"{share}, "programs": {{ "{}": {program} }} }}"#,
                kind()
            )
            .as_bytes(),
        )
    }

    #[test]
    fn a_share_of_the_agents_takes_it_and_a_larger_one_holds_the_smaller() {
        let takers = |share: &str| {
            let manifest = manifest(share, 1).expect("reads");
            let agents = (0..1_000).map(|i| format!("36-73-02-{i}"));
            let takers = agents.filter(|agent| manifest.is_for(agent));
            takers.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(takers("").len(), 1_000);
        assert!(takers(r#", "share": 0"#).is_empty());
        let (few, many) = (takers(r#", "share": 10"#), takers(r#", "share": 40"#));
        assert!((50..150).contains(&few.len()), "{}", few.len());
        assert!((300..500).contains(&many.len()), "{}", many.len());
        assert!(few.is_subset(&many));
    }

    #[test]
    fn what_no_program_can_be_is_refused_by_name() {
        for bytes in [0, PROGRAM_MAX + 1] {
            let error = manifest("", bytes).expect_err("is refused").to_string();
            assert!(error.contains(&format!(".bytes` = `{bytes}`")), "{error}");
        }
        let none = Manifest::parse(br#"{ "version": "1.2.3", "programs": {} }"#).expect("reads");
        assert!(none.program().is_err());
    }
}
