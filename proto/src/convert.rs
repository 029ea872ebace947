//! The only conversions between the wire and the domain types.
//!
//! What arrives is never trusted: each `TryFrom` checks every limit that the `.proto` states and names
//! the field that breaks it.

use crate::{
    Failure, Goodbye, Heartbeat, Hop, HttpExpectation, Identity, Invalid, MAX_HOPS, MAX_SHOWN,
    MAX_TARGETS, Outcome, Path, Reason, Role, Said, Sample, Shown, Target, TargetSamples,
    UnixMillis, wire,
};
use std::net::IpAddr;
use std::time::Duration;

impl From<&Heartbeat> for wire::Heartbeat {
    fn from(from: &Heartbeat) -> Self {
        let epoch = from.at - from.uptime;
        Self {
            uptime_ms: ms(from.uptime),
            epoch_ms: epoch.0,
            started_ms: ms(from.started),
            interval_ms: ms32(from.interval),
            samples: from
                .samples
                .iter()
                .map(|samples| columns(from.at, samples))
                .collect(),
            targets: from.targets.iter().flatten().map(Into::into).collect(),
            goodbye: from.goodbye.map(|reason| wire::Goodbye {
                reason: match reason {
                    Goodbye::Stopped => wire::goodbye::Reason::Stopped,
                    Goodbye::Shutdown => wire::goodbye::Reason::Shutdown,
                    Goodbye::Suspend => wire::goodbye::Reason::Suspend,
                }
                .into(),
            }),
            gateway: from.gateway.clone().unwrap_or_default(),
            shown: from.shown.iter().map(Into::into).collect(),
            path: from.path.as_ref().map(|path| path_out(from.at, path)),
        }
    }
}

impl TryFrom<wire::Heartbeat> for Heartbeat {
    type Error = Invalid;
    fn try_from(wire: wire::Heartbeat) -> Result<Self, Invalid> {
        let uptime = Duration::from_millis(in_range(
            "uptime_ms",
            wire.uptime_ms,
            0,
            // 100 years: what fits an i64 of milliseconds with room to add.
            100 * 366 * 86_400_000,
            "send milliseconds since the machine started",
        )?);
        let epoch = UnixMillis(wire.epoch_ms);
        // ±10,000 years: leaves room for every sum below; whether the time is plausible is the collector's to say.
        if wire.epoch_ms.unsigned_abs() > 315_576_000_000_000 {
            return Err(Invalid::new(
                "epoch_ms",
                wire.epoch_ms,
                "not a time",
                "set the machine's clock",
            ));
        }
        let at = epoch + uptime;
        let interval = in_range(
            "interval_ms",
            u64::from(wire.interval_ms),
            1_000,
            3_600_000,
            "send 1000 to 3600000",
        )?;
        if wire.samples.len() > MAX_TARGETS {
            return Err(Invalid::new(
                "samples",
                format!("{} targets", wire.samples.len()),
                "too many",
                format!("send at most {MAX_TARGETS}"),
            ));
        }
        let mut samples = Vec::with_capacity(wire.samples.len());
        for (i, columns) in wire.samples.into_iter().enumerate() {
            let one = rows(at, &columns).map_err(|error| error.within(&format!("samples[{i}]")))?;
            if samples
                .iter()
                .any(|other: &TargetSamples| other.target == one.target)
            {
                return Err(Invalid::new(
                    format!("samples[{i}].target"),
                    &one.target,
                    "a target stands twice in one heartbeat",
                    "send one entry per target",
                ));
            }
            samples.push(one);
        }
        let targets = wire
            .targets
            .into_iter()
            .enumerate()
            .map(|(i, target)| {
                Target::try_from(target).map_err(|error| error.within(&format!("targets[{i}]")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Target::check_list(&targets)?;
        if wire.gateway.len() > 64 {
            return Err(Invalid::new(
                "gateway",
                wire.gateway,
                "too long for an address",
                "send an IP address or `none`",
            ));
        }
        if wire.shown.len() > MAX_SHOWN {
            return Err(Invalid::new(
                "shown",
                format!("{} identities", wire.shown.len()),
                "too many",
                format!("send at most {MAX_SHOWN}, and the others with the next"),
            ));
        }
        let mut shown = Vec::with_capacity(wire.shown.len());
        for (i, one) in wire.shown.into_iter().enumerate() {
            let read = read_shown(one).map_err(|error| error.within(&format!("shown[{i}]")))?;
            shown.extend(read);
        }
        let path = wire.path.map(|path| path_in(at, path)).transpose();
        Ok(Self {
            at,
            uptime,
            started: Duration::from_millis(wire.started_ms.min(wire.uptime_ms)),
            interval: Duration::from_millis(interval),
            samples,
            targets: (!targets.is_empty()).then_some(targets),
            // A reason from a newer agent is still a proper stop.
            goodbye: wire.goodbye.map(|goodbye| match goodbye.reason() {
                wire::goodbye::Reason::Shutdown => Goodbye::Shutdown,
                wire::goodbye::Reason::Suspend => Goodbye::Suspend,
                wire::goodbye::Reason::Stopped | wire::goodbye::Reason::Unspecified => {
                    Goodbye::Stopped
                }
            }),
            gateway: (!wire.gateway.is_empty()).then_some(wire.gateway),
            shown,
            path: path.map_err(|error| error.within("path"))?,
        })
    }
}

fn path_out(at: UnixMillis, from: &Path) -> wire::Path {
    let hop = |hop: &Option<Hop>| {
        hop.map_or_else(wire::Hop::default, |hop| wire::Hop {
            from: address_bytes(hop.from),
            rtt_us: hop.rtt_us.max(1),
            said: match hop.said {
                Said::Passed => wire::hop::Said::Passed,
                Said::Arrived => wire::hop::Said::Arrived,
                Said::NoWay => wire::hop::Said::NoWay,
            }
            .into(),
        })
    };
    wire::Path {
        target: from.target.to_string(),
        age_ms: ms32(at.since(from.at)),
        to: address_bytes(from.to),
        hops: from.hops.iter().map(hop).collect(),
    }
}

fn path_in(at: UnixMillis, wire: wire::Path) -> Result<Path, Invalid> {
    let named = |field: &'static str| {
        move |error: Invalid| Invalid {
            field: field.into(),
            ..error
        }
    };
    let (count, target) = (wire.hops.len(), wire.target.parse());
    if count > MAX_HOPS {
        let fix = format!("send at most {MAX_HOPS}");
        return Err(Invalid::new(
            "hops",
            format!("{count} hops"),
            "too many",
            fix,
        ));
    }
    let mut hops = Vec::with_capacity(count);
    for (i, hop) in wire.hops.into_iter().enumerate() {
        let read = hop_in(&hop).map_err(|error| error.within(&format!("hops[{i}]")))?;
        hops.push(read);
    }
    if matches!(hops.last(), Some(None)) {
        let fix = "leave out those behind the last that answered";
        return Err(Invalid::new(
            "hops",
            format!("{count} hops"),
            "the last is silent",
            fix,
        ));
    }
    Ok(Path {
        target: target.map_err(named("target"))?,
        at: at - Duration::from_millis(u64::from(wire.age_ms)),
        to: read_address(&wire.to).map_err(named("to"))?,
        hops,
    })
}

/// What answered; `None` for nobody.
fn hop_in(wire: &wire::Hop) -> Result<Option<Hop>, Invalid> {
    if *wire == wire::Hop::default() {
        return Ok(None);
    }
    let from = read_address(&wire.from).map_err(|error| Invalid {
        field: "from".into(),
        ..error
    })?;
    let said = match wire.said() {
        wire::hop::Said::Passed => Said::Passed,
        wire::hop::Said::Arrived => Said::Arrived,
        wire::hop::Said::NoWay => Said::NoWay,
        wire::hop::Said::Unspecified => {
            return Err(Invalid::new(
                "said",
                wire.said,
                "unknown answer",
                "send 1 to 3",
            ));
        }
    };
    Ok(Some(Hop {
        from,
        rtt_us: wire.rtt_us.max(1),
        said,
    }))
}

impl From<&Shown> for wire::Shown {
    fn from(from: &Shown) -> Self {
        use wire::shown::Identity as Wire;
        Self {
            target: from
                .target
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            identity: Some(match from.identity {
                Identity::Mac(mac) => Wire::Mac(mac.to_vec()),
                Identity::Certificate(hash) => Wire::CertificateSha256(hash.to_vec()),
                Identity::Address(ip) => Wire::Address(address_bytes(ip)),
            }),
        }
    }
}

/// An address as the wire carries it.
pub fn address_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The reverse of [`address_bytes`].
pub fn read_address(bytes: &[u8]) -> Result<IpAddr, Invalid> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| wrong_length("address", bytes, "4 or 16"))
}

fn wrong_length(field: &str, bytes: &[u8], right: &str) -> Invalid {
    Invalid::new(
        field,
        format!("{} bytes", bytes.len()),
        "of a wrong length",
        format!("send {right} bytes"),
    )
}

/// What was shown; `None` if it is of a kind that only a newer agent knows.
fn read_shown(wire: wire::Shown) -> Result<Option<Shown>, Invalid> {
    use wire::shown::Identity as Wire;
    let target = match &wire.target[..] {
        "" => None,
        name => Some(name.parse().map_err(|error: Invalid| Invalid {
            field: "target".into(),
            ..error
        })?),
    };
    let identity = match wire.identity {
        None => return Ok(None),
        Some(Wire::Mac(mac)) => Identity::Mac(
            mac[..]
                .try_into()
                .map_err(|_| wrong_length("mac", &mac, "6"))?,
        ),
        Some(Wire::CertificateSha256(hash)) => Identity::Certificate(
            hash[..]
                .try_into()
                .map_err(|_| wrong_length("certificate_sha256", &hash, "32"))?,
        ),
        Some(Wire::Address(ip)) => Identity::Address(read_address(&ip)?),
    };
    Ok(Some(Shown { target, identity }))
}

/// Domain samples → columns.
fn columns(at: UnixMillis, from: &TargetSamples) -> wire::TargetSamples {
    let mut wire = wire::TargetSamples {
        target: from.target.to_string(),
        ..Default::default()
    };
    let mut previous: Option<UnixMillis> = None;
    for sample in &from.samples {
        match previous {
            None => wire.first_age_ms = ms32(at.since(sample.at)),
            Some(previous) => wire.step_ms.push(ms32(sample.at.since(previous))),
        }
        previous = Some(sample.at);
        match sample.outcome {
            Outcome::Ok { rtt_us } => wire.rtt_us.push(rtt_us.max(1)),
            Outcome::Failed(Failure { reason, detail }) => {
                wire.rtt_us.push(0);
                let reason = reason as i32;
                match wire.failures.last_mut() {
                    Some(run) if run.reason == reason && run.detail == detail => run.count += 1,
                    _ => wire.failures.push(wire::FailureRun {
                        reason,
                        count: 1,
                        detail,
                    }),
                }
            }
        }
    }
    wire
}

/// Columns → domain samples.
fn rows(at: UnixMillis, wire: &wire::TargetSamples) -> Result<TargetSamples, Invalid> {
    let target = wire.target.parse().map_err(|error: Invalid| Invalid {
        field: "target".into(),
        ..error
    })?;
    if wire.rtt_us.is_empty() || wire.step_ms.len() + 1 != wire.rtt_us.len() {
        return Err(Invalid::new(
            "step_ms",
            format!(
                "{} steps, {} results",
                wire.step_ms.len(),
                wire.rtt_us.len()
            ),
            "columns of different length",
            "send one result more than steps",
        ));
    }
    // Checked before anything is built from it: a run's count is a number that the sender chose.
    let zeros = wire.rtt_us.iter().filter(|rtt| **rtt == 0).count() as u64;
    let failed: u64 = wire.failures.iter().map(|run| u64::from(run.count)).sum();
    if zeros != failed {
        return Err(Invalid::new(
            "failures",
            format!("{failed} failures, {zeros} zeros"),
            "columns of different length",
            "send one failure for each zero in rtt_us",
        ));
    }
    let mut failures = wire
        .failures
        .iter()
        .flat_map(|run| std::iter::repeat_n((run.reason, run.detail), run.count as usize));
    let mut when = at - Duration::from_millis(u64::from(wire.first_age_ms));
    let mut samples = Vec::with_capacity(wire.rtt_us.len());
    for (i, rtt_us) in wire.rtt_us.iter().copied().enumerate() {
        if i > 0 {
            when = when + Duration::from_millis(u64::from(wire.step_ms[i - 1]));
        }
        let outcome = if rtt_us > 0 {
            Outcome::Ok { rtt_us }
        } else {
            // The counts were compared above, so there is one for each zero.
            let (number, detail) = failures.next().unwrap_or_default();
            let reason = Reason::try_from(number).map_err(|number| {
                Invalid::new(
                    "failures.reason",
                    number,
                    "unknown reason",
                    "update the collector: it must not be older than its agents",
                )
            })?;
            Outcome::Failed(Failure { reason, detail })
        };
        samples.push(Sample { at: when, outcome });
    }
    if when > at {
        return Err(Invalid::new(
            "step_ms",
            format!("last sample {when}, heartbeat {at}"),
            "a sample younger than its heartbeat",
            "send steps that end before uptime_ms",
        ));
    }
    Ok(TargetSamples { target, samples })
}

impl From<&Target> for wire::Target {
    fn from(from: &Target) -> Self {
        Self {
            name: from.name.to_string(),
            role: wire::Role::from(from.role).into(),
            probe: from.probe.to_string(),
            interval_ms: ms32(from.interval),
            timeout_ms: ms32(from.timeout),
            expect_status: from.expect.status.map_or(0, u32::from),
            expect_body: from.expect.body.clone().unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::Target> for Target {
    type Error = Invalid;
    fn try_from(wire: wire::Target) -> Result<Self, Invalid> {
        let status = match wire.expect_status {
            0 => None,
            status => Some(u16::try_from(status).map_err(|_| {
                Invalid::new(
                    "expect_status",
                    status,
                    "not an HTTP status",
                    "send 100 to 599",
                )
            })?),
        };
        Target::new(
            wire.name.parse()?,
            Role::try_from(wire.role)?,
            wire.probe.parse()?,
            Duration::from_millis(u64::from(wire.interval_ms)),
            Duration::from_millis(u64::from(wire.timeout_ms)),
            HttpExpectation {
                status,
                body: (!wire.expect_body.is_empty()).then_some(wire.expect_body),
            },
        )
    }
}

impl From<Role> for wire::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Gateway => Self::Gateway,
            Role::Server => Self::Server,
            Role::Uplink => Self::Uplink,
            Role::Dns => Self::Dns,
            Role::Central => Self::Central,
            Role::Collector => Self::Collector,
        }
    }
}

impl TryFrom<i32> for Role {
    type Error = Invalid;
    fn try_from(number: i32) -> Result<Self, Invalid> {
        Self::ALL
            .iter()
            .copied()
            .find(|role| wire::Role::from(*role) as i32 == number)
            .ok_or_else(|| Invalid::new("role", number, "unknown role", "send 1 to 6"))
    }
}

fn in_range(field: &str, value: u64, least: u64, most: u64, fix: &str) -> Result<u64, Invalid> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(Invalid::new(field, value, "out of range", fix))
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn ms32(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            3 => (1u32..).prop_map(|rtt_us| Outcome::Ok { rtt_us }),
            1 => (prop::sample::select(Reason::ALL), 0u32..3)
                .prop_map(|(reason, detail)| Outcome::Failed(Failure { reason, detail })),
        ]
    }

    fn shown() -> impl Strategy<Value = Shown> {
        let identity = prop_oneof![
            any::<[u8; 6]>().prop_map(Identity::Mac),
            any::<[u8; 32]>().prop_map(Identity::Certificate),
            any::<IpAddr>().prop_map(Identity::Address),
        ];
        (prop::option::of(Just("server")), identity).prop_map(|(target, identity)| Shown {
            target: target.map(|name| name.parse().expect("a name")),
            identity,
        })
    }

    fn path() -> impl Strategy<Value = (u32, IpAddr, Vec<Option<Hop>>)> {
        let said = prop::sample::select(&[Said::Passed, Said::Arrived, Said::NoWay][..]);
        let hop = (any::<IpAddr>(), 1u32.., said).prop_map(|(from, rtt_us, said)| Hop {
            from,
            rtt_us,
            said,
        });
        let hops = prop::collection::vec(prop::option::of(hop), 0..=MAX_HOPS);
        (0u32..100_000, any::<IpAddr>(), hops).prop_map(|(age, to, mut hops)| {
            while matches!(hops.last(), Some(None)) {
                hops.pop();
            }
            (age, to, hops)
        })
    }

    fn heartbeat() -> impl Strategy<Value = Heartbeat> {
        let steps = prop::collection::vec((0u64..100_000, outcome()), 1..40);
        (
            prop::collection::btree_map("[a-z][a-z0-9]{0,8}", steps, 0..6),
            0u64..10_000_000_000,
            0i64..4_000_000_000_000,
            prop::option::of(Just("10.0.0.1".to_owned())),
            prop::collection::vec(shown(), 0..4),
            prop::option::of(path()),
        )
            .prop_map(|(by_target, uptime_ms, epoch_ms, gateway, shown, path)| {
                let uptime = Duration::from_millis(uptime_ms);
                let at = UnixMillis(epoch_ms) + uptime;
                let samples = by_target.into_iter().map(|(name, steps)| {
                    let total: u64 = steps.iter().map(|(step, _)| step).sum();
                    let mut when = at - Duration::from_millis(total);
                    let samples = steps.into_iter().map(|(step, outcome)| {
                        when = when + Duration::from_millis(step);
                        Sample { at: when, outcome }
                    });
                    TargetSamples {
                        target: name.parse().expect("made of allowed letters"),
                        samples: samples.collect(),
                    }
                });
                Heartbeat {
                    at,
                    uptime,
                    started: uptime,
                    interval: Duration::from_secs(10),
                    samples: samples.collect(),
                    targets: None,
                    goodbye: None,
                    gateway,
                    shown,
                    path: path.map(|(age, to, hops)| Path {
                        target: "uplink".parse().expect("a name"),
                        at: at - Duration::from_millis(u64::from(age)),
                        to,
                        hops,
                    }),
                }
            })
    }

    proptest! {
        #[test]
        fn a_heartbeat_survives_the_wire(before in heartbeat()) {
            let bytes = wire::Heartbeat::from(&before).encode_to_vec();
            let wire = wire::Heartbeat::decode(&bytes[..]).expect("just encoded");
            let after = Heartbeat::try_from(wire).expect("just converted");
            prop_assert_eq!(after, before);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(wire) = wire::Heartbeat::decode(&bytes[..]) {
                let read: Result<Heartbeat, Invalid> = wire.try_into();
                prop_assert!(read.is_ok() || read.is_err_and(|error| !error.fix.is_empty()));
            }
        }
    }

    fn valid() -> wire::Heartbeat {
        wire::Heartbeat {
            uptime_ms: 60_000,
            epoch_ms: 1_763_983_305_000,
            interval_ms: 10_000,
            samples: vec![wire::TargetSamples {
                target: "server".into(),
                first_age_ms: 20_000,
                step_ms: vec![10_000, 10_000],
                rtt_us: vec![900, 0, 1_000],
                failures: vec![wire::FailureRun {
                    reason: Reason::Timeout as i32,
                    count: 1,
                    detail: 0,
                }],
            }],
            ..Default::default()
        }
    }

    fn way(change: impl FnOnce(&mut wire::Path)) -> wire::Path {
        let mut path = wire::Path {
            target: "uplink".into(),
            age_ms: 2_000,
            to: vec![192, 0, 2, 1],
            hops: vec![wire::Hop {
                from: vec![192, 0, 2, 9],
                rtt_us: 900,
                said: wire::hop::Said::Passed.into(),
            }],
        };
        change(&mut path);
        path
    }

    #[test]
    fn each_broken_limit_names_its_field() {
        use wire::shown::Identity;
        type Break = fn(&mut wire::Heartbeat);
        fn of(target: &str, identity: Option<Identity>) -> wire::Shown {
            wire::Shown {
                target: target.into(),
                identity,
            }
        }
        assert!(Heartbeat::try_from(valid()).is_ok());
        let cases: &[(&str, Break)] = &[
            ("uptime_ms", |h| h.uptime_ms = u64::MAX),
            ("epoch_ms", |h| h.epoch_ms = i64::MIN),
            ("interval_ms", |h| h.interval_ms = 0),
            ("samples", |h| h.samples = vec![h.samples[0].clone(); 33]),
            ("samples[1].target", |h| {
                h.samples.push(h.samples[0].clone());
            }),
            ("samples[0].target", |h| {
                h.samples[0].target = "Server!".into();
            }),
            ("samples[0].step_ms", |h| h.samples[0].step_ms = vec![]),
            ("samples[0].step_ms", |h| {
                h.samples[0].step_ms = vec![10_000, 10_001];
            }),
            ("samples[0].failures", |h| h.samples[0].failures = vec![]),
            ("samples[0].failures", |h| {
                h.samples[0].failures[0].count = u32::MAX;
            }),
            ("samples[0].failures.reason", |h| {
                h.samples[0].failures[0].reason = 999;
            }),
            ("targets[0].name", |h| {
                h.targets = vec![wire::Target::default()];
            }),
            ("gateway", |h| h.gateway = "x".repeat(65)),
            ("shown", |h| h.shown = vec![wire::Shown::default(); 33]),
            ("shown[0].target", |h| h.shown = vec![of("Server!", None)]),
            ("shown[0].mac", |h| {
                h.shown = vec![of("server", Some(Identity::Mac(vec![1; 5])))];
            }),
            ("shown[0].certificate_sha256", |h| {
                h.shown = vec![of("server", Some(Identity::CertificateSha256(vec![])))];
            }),
            ("shown[0].address", |h| {
                h.shown = vec![of("", Some(Identity::Address(vec![1; 15])))];
            }),
            ("path.target", |h| h.path = Some(wire::Path::default())),
            ("path.to", |h| h.path = Some(way(|path| path.to = vec![1]))),
            ("path.hops", |h| {
                h.path = Some(way(|path| path.hops = vec![path.hops[0].clone(); 25]));
            }),
            ("path.hops", |h| {
                h.path = Some(way(|path| path.hops.push(wire::Hop::default())));
            }),
            ("path.hops[0].from", |h| {
                h.path = Some(way(|path| path.hops[0].from = vec![]));
            }),
            ("path.hops[0].said", |h| {
                h.path = Some(way(|path| path.hops[0].said = 9));
            }),
        ];
        for (field, break_it) in cases {
            let mut wire = valid();
            break_it(&mut wire);
            let error = Heartbeat::try_from(wire).expect_err(field);
            assert_eq!(&error.field, field);
        }
    }

    #[test]
    fn a_target_survives_the_wire() {
        let target = Target::new(
            "central".parse().expect("a name"),
            Role::Central,
            "https://dukcapil.example/".parse().expect("a probe"),
            Duration::from_secs(10),
            Duration::from_secs(3),
            HttpExpectation {
                status: Some(204),
                body: Some("OK".into()),
            },
        )
        .expect("valid");
        assert_eq!(Target::try_from(wire::Target::from(&target)), Ok(target));
    }

    /// What an ordinary heartbeat costs before compression; see the limits in `lib.rs`.
    #[test]
    fn a_full_heartbeat_fits() {
        let samples = (0..MAX_TARGETS).map(|i| wire::TargetSamples {
            target: format!("a-name-of-32-characters-00000-{i:02}"),
            first_age_ms: 9_999,
            step_ms: vec![],
            rtt_us: vec![u32::MAX],
            failures: vec![],
        });
        let targets = (0..MAX_TARGETS).map(|i| wire::Target {
            name: format!("a-name-of-32-characters-00000-{i:02}"),
            role: 1,
            probe: "https://service.dukcapil.example.go.id/health".into(),
            interval_ms: 10_000,
            timeout_ms: 3_000,
            ..Default::default()
        });
        let full = wire::Heartbeat {
            samples: samples.collect(),
            targets: targets.collect(),
            ..valid()
        };
        let bytes = full.encoded_len();
        assert!(bytes <= crate::MAX_HEARTBEAT_BYTES, "{bytes} bytes");
        let shown = (0..MAX_SHOWN).map(|i| wire::Shown {
            target: format!("a-name-of-32-characters-00000-{i:02}"),
            identity: Some(wire::shown::Identity::CertificateSha256(vec![1; 32])),
        });
        let full = wire::Heartbeat {
            shown: shown.collect(),
            ..valid()
        };
        let bytes = full.encoded_len();
        assert!(bytes <= crate::MAX_HEARTBEAT_BYTES, "{bytes} bytes");
        let far = wire::Hop {
            from: vec![1; 16],
            rtt_us: u32::MAX,
            said: wire::hop::Said::Passed.into(),
        };
        let full = wire::Heartbeat {
            path: Some(way(|path| path.hops = vec![far; MAX_HOPS])),
            ..valid()
        };
        let bytes = full.encoded_len();
        assert!(bytes <= crate::MAX_HEARTBEAT_BYTES, "{bytes} bytes");
    }
}
