//! Silences: nobody is called for what fits one, until it is over. What happens is seen and kept all the same, and its end is told to who knew of its beginning.

use super::route::About;
use crate::keys;
use anyhow::Context;
use denyut_detect::Cause;
use denyut_detect::calendar::in_region;
use denyut_proto::{Invalid, OfficeCode, UnixMillis, parse_duration};
use denyut_store::state::{Change, State, get_json, scan_json};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use utoipa::ToSchema;

/// How long one lasts, at least and at most: what is to be quiet for longer is no silence but a route.
const LASTS: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(90 * 86_400));
/// Silences at the same time, at most.
const MOST: usize = 500;
/// How long one that is over is kept, so that people see it.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Regions and causes of one, at most.
const LISTED: usize = 50;

/// One silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Silence {
    pub(crate) number: u64,
    /// Region codes or their beginnings; at least one.
    #[schema(example = json!(["36.73"]))]
    pub(crate) regions: Vec<String>,
    /// Only these causes; all when empty.
    pub(crate) causes: Vec<Cause>,
    /// Who made it, as they say.
    pub(crate) by: String,
    /// Why.
    pub(crate) why: String,
    #[schema(value_type = i64)]
    pub(crate) from_ms: UnixMillis,
    #[schema(value_type = i64)]
    pub(crate) until_ms: UnixMillis,
}

impl Silence {
    /// Whether it holds now, and for all of this: what hit offices elsewhere, too, is no less for them.
    pub(crate) fn covers(&self, about: &About, now: UnixMillis) -> bool {
        let in_one = |office: &OfficeCode| {
            let mut regions = self.regions.iter();
            regions.any(|region| in_region(office, region))
        };
        self.holds(now)
            && !about.offices.is_empty()
            && about.offices.iter().all(in_one)
            && (self.causes.is_empty() || self.causes.contains(&about.cause))
    }

    /// Until when nobody need have cared for this, if it is over by now.
    pub(super) fn spared(&self, about: &About, now: UnixMillis) -> Option<UnixMillis> {
        // As it was in its last moment.
        let last = UnixMillis(self.until_ms.0 - 1);
        (self.until_ms <= now && self.covers(about, last)).then_some(self.until_ms)
    }

    pub(crate) fn holds(&self, now: UnixMillis) -> bool {
        (self.from_ms..self.until_ms).contains(&now)
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wish {
    /// Region codes or their beginnings; at least one.
    #[schema(min_items = 1, max_items = 50, example = json!(["36.73"]))]
    regions: Vec<String>,
    /// Only these causes; all when left out.
    #[serde(default)]
    causes: Vec<Cause>,
    /// Why nobody need be called.
    #[schema(
        example = "Pemindahan server, sampai besok sore",
        min_length = 1,
        max_length = 2_000
    )]
    why: String,
    /// For how long (`5m` to `90days`).
    #[serde(rename = "for")]
    #[schema(example = "8h")]
    lasts: String,
}

impl Wish {
    /// For one region, and these causes, or every cause.
    pub(crate) fn of(region: &str, causes: Vec<Cause>, why: &str, lasts: &str) -> Self {
        Self {
            regions: vec![region.to_owned()],
            causes,
            why: why.to_owned(),
            lasts: lasts.to_owned(),
        }
    }

    /// Where.
    pub(crate) fn regions(&self) -> &[String] {
        &self.regions
    }

    /// What it makes now.
    fn silence(&self, number: u64, by: &str, now: UnixMillis) -> Result<Silence, Invalid> {
        let lasts = parse_duration("for", &self.lasts)?;
        if lasts < LASTS.0 || lasts > LASTS.1 {
            return Err(Invalid::new(
                "for",
                &self.lasts,
                "out of range",
                "write 5m to 90days, and make it anew when that is over",
            ));
        }
        if self.regions.is_empty() || self.regions.len() > LISTED || self.causes.len() > LISTED {
            return Err(Invalid::new(
                "regions",
                self.regions.len(),
                "not a number of regions",
                format!("name 1 to {LISTED}, such as `36.73`"),
            ));
        }
        for region in &self.regions {
            crate::config::region_of("regions", region)?;
        }
        let (by, why) = crate::case::signed(by, &self.why)?;
        Ok(Silence {
            number,
            regions: self.regions.clone(),
            causes: self.causes.clone(),
            by,
            why,
            from_ms: now,
            until_ms: now + lasts,
        })
    }
}

/// Keeps the silences.
pub(crate) struct Silences {
    state: Arc<dyn State>,
    /// Nobody else changes one meanwhile.
    changing: Mutex<()>,
    /// Somebody may have to be told, or need not any more.
    news: Arc<Notify>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSilence {
    #[error("there is no silence {0} that holds")]
    None(u64),
    #[error("there are {MOST} silences already; end some, or make one of a larger region")]
    TooMany,
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// All of them, oldest first.
pub(super) fn read(state: &dyn State) -> anyhow::Result<Vec<Silence>> {
    let all = scan_json::<Silence>(state, keys::SILENCES)?;
    Ok(all.into_iter().map(|(_, silence)| silence).collect())
}

impl Silences {
    pub(crate) fn new(state: Arc<dyn State>, news: Arc<Notify>) -> Self {
        Self {
            state,
            changing: Mutex::default(),
            news,
        }
    }

    /// All of them, oldest first. Blocks, as all methods do.
    pub(crate) fn list(&self) -> anyhow::Result<Vec<Silence>> {
        read(&*self.state)
    }

    /// Makes one; what is returned is on the disk.
    pub(crate) fn add(&self, wish: &Wish, by: &str, now: UnixMillis) -> Result<Silence, NoSilence> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.list()?;
        if all.iter().filter(|one| one.holds(now)).count() >= MOST {
            return Err(NoSilence::TooMany);
        }
        let number = all.last().map_or(1, |last| last.number + 1);
        let silence = wish.silence(number, by, now)?;
        let mut change = Change::default();
        change.put_json(keys::silence(number), &silence)?;
        // The newest stays, so that no number is used twice.
        let old = all.iter().rev().skip(1);
        let old = old.filter(|one| one.until_ms + KEPT < now).take(100);
        change.delete = old.map(|one| keys::silence(one.number)).collect();
        self.keep(change)?;
        Ok(silence)
    }

    /// Ends one that holds.
    pub(crate) fn end(&self, number: u64, now: UnixMillis) -> Result<Silence, NoSilence> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let silence: Option<Silence> = get_json(&*self.state, &keys::silence(number))?;
        let mut silence = silence
            .filter(|one| one.holds(now))
            .ok_or(NoSilence::None(number))?;
        silence.until_ms = now;
        let mut change = Change::default();
        change.put_json(keys::silence(number), &silence)?;
        self.keep(change)?;
        Ok(silence)
    }

    fn keep(&self, change: Change) -> anyhow::Result<()> {
        self.state.apply(change).map_err(anyhow::Error::from)?;
        self.state.sync().context("cannot keep it")?;
        self.news.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Severity;

    #[test]
    fn a_silence_of_one_office_does_not_silence_what_hit_others() {
        let silence = Silence {
            number: 1,
            regions: vec!["36.73.02".to_owned(), "36.72".to_owned()],
            causes: vec![Cause::Uplink, Cause::Regional],
            by: "Siti".to_owned(),
            why: "x".to_owned(),
            from_ms: UnixMillis(1_000),
            until_ms: UnixMillis(2_000),
        };
        let covers = |offices: &[&str], cause, at| {
            let offices = offices.iter().map(|code| code.parse().expect("a code"));
            let about = About {
                offices: offices.collect(),
                cause,
                severity: Severity::Warning,
                patterns: Vec::new(),
            };
            silence.covers(&about, UnixMillis(at))
        };
        assert!(covers(&["36.73.02"], Cause::Uplink, 1_000));
        assert!(covers(&["36.73.02", "36.72.05"], Cause::Regional, 1_999));
        assert!(!covers(&["36.73.02", "36.73.03"], Cause::Regional, 1_500));
        assert!(!covers(&["36.73.02"], Cause::Server, 1_500));
        assert!(!covers(&[], Cause::Regional, 1_500));
        assert!(!covers(&["36.73.02"], Cause::Uplink, 2_000));
        // Nobody had to care for it while it held.
        let about = |office: &str| About {
            offices: vec![office.parse().expect("a code")],
            cause: Cause::Uplink,
            severity: Severity::Warning,
            patterns: Vec::new(),
        };
        let spared = |office, at| silence.spared(&about(office), UnixMillis(at));
        assert_eq!(spared("36.73.02", 1_999), None);
        assert_eq!(spared("36.73.02", 2_000), Some(UnixMillis(2_000)));
        assert_eq!(spared("36.73.03", 2_000), None);
    }
}
