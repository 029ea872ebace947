//! The history as Prometheus has it: PromQL over what was measured, for Grafana and whoever speaks that language.
//!
//! There are two metrics, both with the labels `office`, `name`, `regency`, `province`, `isp`, `agent`, `target` and `role` (what is not known is left out):
//! `denyut_up` (1 for a probe that was answered, 0 for one that was not; what the agent's own machine could not take is left out), and `denyut_rtt_seconds` of those that
//! were. Samples are what they are made of; of a time whose samples are no longer kept, the finest rows that are left stand for them, a value at the end of each: the
//! share that was answered, and the mean.
//!
//! Evaluation is that of Prometheus 2 (`promql/engine.go` there): an instant vector has the newest sample of the five minutes before (of rows: of their length before),
//! a range both its ends. What is not known is refused by its name.

mod eval;
mod functions;
mod read;

pub(crate) use eval::{Series, Value};
pub(crate) use read::{Labels, METRICS, labels_of, select};

use crate::access::Regions;
use crate::query::Query;
use promql_parser::label::Matchers;
use promql_parser::parser::{self, Expr};
use std::time::{Duration, Instant};

/// Bytes of a query, at most; how deep it may be nested.
const TEXT_MOST: usize = 8 * 1024;
const DEPTH_MOST: usize = 100;
/// Points of one series of an answer, as Prometheus has it.
pub(crate) const POINTS_MOST: i64 = 11_000;
/// Samples that one query may read, and that an answer may hold.
const SAMPLES_MOST: usize = 5_000_000;
/// Bytes of the value of a label that a query makes.
const LABEL_MOST: usize = 4 * 1024;
/// So many bytes of such values count as a sample; a usual one is free.
const BYTES_OF_SAMPLE: usize = 32;
/// How long one may take, and when nothing is said.
pub(crate) const TAKES_MOST: Duration = Duration::from_secs(60);

/// Why there is no answer; the words are Prometheus' (`errorType`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The question is wrong.
    #[error("{0}")]
    BadData(String),
    /// It cannot be answered.
    #[error("{0}")]
    Execution(String),
    /// It takes too long.
    #[error(
        "the query took longer than {0:?}; ask for a shorter time, a longer step or fewer links"
    )]
    Timeout(Duration),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// When it is asked for, in ms: one moment if the step is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) step: i64,
}

/// What a query may use, and how much of it is left.
pub(crate) struct Budget {
    samples: usize,
    until: Instant,
    whole: Duration,
}

impl Budget {
    pub(crate) fn of(takes: Duration) -> Self {
        let whole = takes.min(TAKES_MOST);
        Self {
            samples: SAMPLES_MOST,
            until: Instant::now() + whole,
            whole,
        }
    }

    /// Takes so many samples.
    fn take(&mut self, count: usize) -> Result<(), Refused> {
        self.samples = self.samples.checked_sub(count).ok_or_else(|| {
            Refused::Execution(format!(
                "the query needs more than {SAMPLES_MOST} samples; ask for a shorter time, a longer step or fewer links, such as {{province=\"36\"}}"
            ))
        })?;
        self.in_time()
    }

    /// Takes what a label holds that was made.
    fn take_label(&mut self, value: &str) -> Result<(), Refused> {
        if value.len() > LABEL_MOST {
            return Err(Refused::Execution(format!(
                "the query makes a label longer than {LABEL_MOST} bytes"
            )));
        }
        self.take(value.len() / BYTES_OF_SAMPLE)
    }

    fn in_time(&self) -> Result<(), Refused> {
        if Instant::now() > self.until {
            return Err(Refused::Timeout(self.whole));
        }
        Ok(())
    }
}

/// Reads a query.
pub(crate) fn parse(text: &str) -> Result<Expr, Refused> {
    let bad = |text: String| Refused::BadData(format!("invalid parameter \"query\": {text}"));
    if text.len() > TEXT_MOST {
        return Err(bad(format!("longer than {TEXT_MOST} bytes")));
    }
    // Before it is parsed: what is nested without end must not be followed without end.
    let mut depth = 0_usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > DEPTH_MOST {
        return Err(bad(format!("nested more than {DEPTH_MOST} deep")));
    }
    let expression = parser::parse(text).map_err(bad)?;
    if depth_of(&expression) > DEPTH_MOST {
        return Err(bad(format!("nested more than {DEPTH_MOST} deep")));
    }
    Ok(expression)
}

/// How deep an expression is nested.
fn depth_of(expression: &Expr) -> usize {
    let below = match expression {
        Expr::Aggregate(one) => {
            let param = one.param.as_ref().map_or(0, |param| depth_of(param));
            depth_of(&one.expr).max(param)
        }
        Expr::Unary(one) => depth_of(&one.expr),
        Expr::Binary(one) => depth_of(&one.lhs).max(depth_of(&one.rhs)),
        Expr::Paren(one) => depth_of(&one.expr),
        Expr::Subquery(one) => depth_of(&one.expr),
        Expr::Call(one) => one
            .args
            .args
            .iter()
            .map(|arg| depth_of(arg))
            .max()
            .unwrap_or(0),
        _ => 0,
    };
    below + 1
}

/// Reads a selector, as `match[]` has it.
pub(crate) fn parse_selector(text: &str) -> Result<Matchers, Refused> {
    match parse(text)? {
        Expr::VectorSelector(selector) if selector.at.is_none() && selector.offset.is_none() => {
            Ok(read::matchers(&selector))
        }
        _ => Err(Refused::BadData(
            "invalid parameter \"match[]\": not a selector; write it like denyut_up{office=\"36.73.02\"}".to_owned(),
        )),
    }
}

/// Answers a query as of these times. Blocks.
pub(crate) fn answer(
    query: &Query,
    sees: &Regions,
    expression: &Expr,
    times: Times,
    budget: &mut Budget,
) -> Result<Value, Refused> {
    eval::evaluate(query, sees, expression, times, budget)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_deep_or_too_long_is_refused() {
        for text in [
            "(".repeat(5_000),
            format!("{}1{}", "(".repeat(200), ")".repeat(200)),
            format!("{}x", "-".repeat(2_000)),
            vec!["1"; 2_000].join("+"),
            vec!["1"; 2_000].join("^"),
            "abs(".repeat(1_000),
            "x".repeat(9_000),
        ] {
            let refused = parse(&text).expect_err("is refused");
            assert!(matches!(refused, Refused::BadData(_)), "{text}");
        }
        assert!(parse("sum by (office) (rate(denyut_up[5m] offset 1h)) / 2 > bool 0").is_ok());
    }

    #[test]
    fn a_selector_is_no_expression() {
        assert!(parse_selector("denyut_up{office=~\"36.*\"}").is_ok());
        assert!(parse_selector("{role=\"server\"}").is_ok());
        for wrong in [
            "1",
            "sum(denyut_up)",
            "denyut_up[5m]",
            "denyut_up offset 5m",
            "{}",
        ] {
            assert!(parse_selector(wrong).is_err(), "{wrong}");
        }
    }
}
