//! A link in the terminal: its round-trip times as smoke (lowest to 95th percentile) around their median, its losses below.

use crate::show::{Show, length, line, plain, time};
use serde_json::Value;

/// Lines of the picture.
const HEIGHT: usize = 10;
/// Columns for the scale on its left.
const SCALE: usize = 10;

/// Columns of the picture.
pub(crate) fn width() -> usize {
    let shown =
        rustix::termios::tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    let all = if shown == 0 { 80 } else { shown };
    all.saturating_sub(SCALE + 1).clamp(20, 300)
}

/// The length of time of a column, in ms: a whole step of what is kept.
pub(crate) fn step(last: i64, width: usize) -> i64 {
    const STEPS: [i64; 14] = [
        1_000,
        5_000,
        10_000,
        30_000,
        60_000,
        300_000,
        600_000,
        1_800_000,
        3_600_000,
        7_200_000,
        21_600_000,
        43_200_000,
        86_400_000,
        604_800_000,
    ];
    let wanted = last / i64::try_from(width).unwrap_or(1).max(1);
    let fit = STEPS.iter().find(|step| **step >= wanted);
    let week = STEPS[STEPS.len() - 1];
    fit.copied().unwrap_or_else(|| (wanted / week + 1) * week)
}

/// What a column shows.
#[derive(Clone, Copy, Default)]
struct Column {
    ok: u64,
    failed: u64,
    /// Lowest, median and 95th percentile in µs.
    rtt: Option<(f64, f64, f64)>,
}

/// Draws it.
pub(crate) fn draw(
    show: &Show,
    link: &Value,
    answer: &Value,
    from: i64,
    until: i64,
    step: i64,
) -> anyhow::Result<()> {
    let office = link["office"].as_str();
    let text = |name: &str| plain(link[name].as_str().unwrap_or_default());
    let state = text("state");
    line(&format!(
        "{}/{} of {}, {}: {}",
        text("agent"),
        text("target"),
        text("office"),
        text("probe"),
        show.state(&state, &state)
    ))?;
    let columns = columns(answer, from, until, step);
    let top = columns
        .iter()
        .filter_map(|column| column.rtt)
        .map(|(.., high)| high)
        .fold(0.0, f64::max);
    if top > 0.0 {
        for row in (0..HEIGHT).rev() {
            line(
                &(scale(row, top)
                    + &columns
                        .iter()
                        .map(|column| mark(*column, row, top))
                        .collect::<String>()),
            )?;
        }
    }
    let losses: String = columns.iter().map(|column| loss(*column)).collect();
    line(&format!(
        "{:>SCALE$} {}",
        "lost",
        show.state("down", &losses)
    ))?;
    let (first, last) = (time(from, office), time(until, office));
    let gap = columns.len().saturating_sub(first.len() + last.len());
    line(&format!("{:SCALE$} {first}{}{last}", "", " ".repeat(gap)))?;
    let sum = |field: fn(&Column) -> u64| columns.iter().map(field).sum::<u64>();
    let (ok, failed) = (sum(|column| column.ok), sum(|column| column.failed));
    let share = if ok + failed == 0 {
        "nothing was measured".to_owned()
    } else {
        format!("{:.2} % answered", 100.0 * ok as f64 / (ok + failed) as f64)
    };
    let level = answer["level"].as_str().unwrap_or_default();
    line(&format!(
        "{share}; a column is {}, from {level} data; ░ lowest to 95th percentile, █ median",
        length(step)
    ))
}

/// Who answered on the way to the target when it had failed in that time, the last first.
pub(crate) fn paths(link: &Value, paths: &Value, from: i64, until: i64) -> anyhow::Result<()> {
    let office = link["office"].as_str();
    for path in paths.as_array().into_iter().flatten() {
        let at = path["at_ms"].as_i64().unwrap_or_default();
        if (from..until).contains(&at) {
            line(&format!("path at {}: {}", time(at, office), way(path)))?;
        }
    }
    Ok(())
}

fn way(path: &Value) -> String {
    let hops = path["hops"].as_array().map_or(&[][..], Vec::as_slice);
    let mut parts: Vec<String> = hops
        .iter()
        .map(|hop| {
            let Some(from) = hop["from"].as_str() else {
                return "silent".to_owned();
            };
            let ms = hop["rtt_us"].as_f64().unwrap_or_default() / 1_000.0;
            format!("{} ({ms:.1} ms)", plain(from))
        })
        .collect();
    let to = plain(path["to"].as_str().unwrap_or_default());
    parts.push(match hops.last().and_then(|hop| hop["said"].as_str()) {
        None => format!("nobody answered on the way to {to}"),
        Some("arrived") => "arrived".to_owned(),
        Some("no_way") => format!("no way on to {to}"),
        Some(_) => format!("then nobody up to {to}"),
    });
    parts.join(" → ")
}

fn columns(answer: &Value, from: i64, until: i64, step: i64) -> Vec<Column> {
    let first = from.div_euclid(step);
    let count = usize::try_from((until - 1).div_euclid(step) - first + 1).unwrap_or(0);
    let mut columns = vec![Column::default(); count];
    for bucket in answer["buckets"].as_array().into_iter().flatten() {
        let place = bucket["from_ms"]
            .as_i64()
            .map(|at| at.div_euclid(step) - first);
        let Some(column) = place.and_then(|place| columns.get_mut(usize::try_from(place).ok()?))
        else {
            continue;
        };
        let rtt = |name: &str| bucket["rtt_us"][name].as_f64();
        column.ok = bucket["ok"].as_u64().unwrap_or(0);
        column.failed = bucket["failed"].as_u64().unwrap_or(0);
        column.rtt = rtt("min")
            .zip(rtt("median"))
            .zip(rtt("p95"))
            .map(|((min, median), p95)| (min, median, p95));
    }
    columns
}

/// Which line a value is on; from the bottom.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a few lines"
)]
fn row_of(value: f64, top: f64) -> usize {
    ((value / top * HEIGHT as f64) as usize).min(HEIGHT - 1)
}

fn mark(column: Column, row: usize, top: f64) -> char {
    match column.rtt {
        Some((_, median, _)) if row_of(median, top) == row => '█',
        Some((low, _, high)) if (row_of(low, top)..=row_of(high, top)).contains(&row) => '░',
        _ => ' ',
    }
}

/// How much of a column was lost.
fn loss(column: Column) -> char {
    let all = column.ok + column.failed;
    match column.failed * 8 {
        _ if all == 0 => '·',
        0 => ' ',
        eighths => ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
            [usize::try_from((eighths - 1) / all).unwrap_or(7).min(7)],
    }
}

fn scale(row: usize, top: f64) -> String {
    let is_told = row + 1 == HEIGHT || row == 0 || row == HEIGHT / 2;
    let value = top * (row + usize::from(row > 0)) as f64 / HEIGHT as f64;
    let text = if value >= 1_000.0 {
        format!("{:.1} ms", value / 1_000.0)
    } else {
        format!("{value:.0} µs")
    };
    format!("{:>SCALE$} ", if is_told { text } else { String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_way_reads_well() {
        let hop = |said: &str| json!({"from": "10.0.0.1", "rtt_us": 1_250, "said": said});
        let path = |hops: Value| way(&json!({"to": "203.0.113.9", "hops": hops}));
        assert_eq!(path(json!([])), "nobody answered on the way to 203.0.113.9");
        assert_eq!(
            path(json!([null, hop("passed")])),
            "silent → 10.0.0.1 (1.2 ms) → then nobody up to 203.0.113.9"
        );
        assert!(path(json!([hop("no_way")])).ends_with("no way on to 203.0.113.9"));
        assert_eq!(path(json!([hop("arrived")])), "10.0.0.1 (1.2 ms) → arrived");
    }

    #[test]
    fn a_column_is_where_its_time_is() {
        let answer = json!({"level": "raw", "buckets": [
            {"from_ms": 60_000, "ok": 9, "failed": 1, "rtt_us": {"min": 10, "median": 50, "p95": 100}},
            {"from_ms": 180_000, "ok": 0, "failed": 4, "rtt_us": null},
        ]});
        let columns = columns(&answer, 60_000, 240_000, 60_000);
        assert_eq!(
            columns
                .iter()
                .map(|column| loss(*column))
                .collect::<String>(),
            "▁·█"
        );
        let first: String = (0..HEIGHT)
            .map(|row| mark(columns[0], row, 100.0))
            .collect();
        assert_eq!(first, " ░░░░█░░░░");
        assert_eq!(scale(HEIGHT - 1, 1_234.0), "    1.2 ms ");
        assert_eq!(scale(0, 1_234.0), "      0 µs ");
    }

    #[test]
    fn a_step_makes_no_more_columns_than_there_are() {
        for last in [
            60_000,
            3_600_000,
            86_400_000,
            30 * 86_400_000,
            3_660 * 86_400_000,
        ] {
            for width in [20, 69, 300] {
                let step = step(last, width);
                assert!(
                    last / step <= i64::try_from(width).expect("small"),
                    "{last} {width}: {step}"
                );
                assert!(last / step <= 2_000);
            }
        }
    }
}
