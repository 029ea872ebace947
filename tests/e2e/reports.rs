//! Reports of a month: the same figures as a page, as a table and on paper, and a number that goes up when what they say changes.

use crate::page::{picture, shows};
use denyut_proto::{BootId, Outcome, Reason, wire};
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::peer::{Peer, entry_of, heartbeat_of};
use denyut_tests::{Collector, eventually, now_ms};
use reqwest::Method;
use std::process::Command;
use std::time::Duration;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const WIB_MS: i64 = 7 * HOUR_MS;

const CONFIG: &str = "[report]\nletterhead = [\"PEMERINTAH KOTA SERANG\", \"DINAS KEPENDUDUKAN DAN PENCATATAN SIPIL\", \"Jl. Jenderal Sudirman 5, Serang\"]\n\
     [[office]]\ncode = \"36.73.02\"\nname = \"Cipocok Jaya\"\nregency = \"Kota Serang\"\nhours = \"Mon-Sun 08:00-16:00\"\nagents = [\"a-1\"]\n\
     [[office]]\ncode = \"36.73.03\"\nname = \"Kasemen\"\nregency = \"Kota Serang\"\nhours = \"Mon-Sun 08:00-16:00\"\nagents = [\"b-1\"]\n";

/// The first moment of the present month in Jakarta, and the name of the month before it.
fn last_month() -> (i64, String) {
    let day = |at: i64| {
        let days = (at + WIB_MS).div_euclid(DAY_MS);
        // Days since 1970 as a date (Howard Hinnant's `civil_from_days`).
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let of_era = z - era * 146_097;
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        (year + era * 400 + i64::from(month <= 2), month, day)
    };
    let now = now_ms();
    let (_, _, of_month) = day(now);
    let first = (now + WIB_MS).div_euclid(DAY_MS) * DAY_MS - WIB_MS - (of_month - 1) * DAY_MS;
    let (year, month, _) = day(first - DAY_MS);
    (first, format!("{year:04}-{month:02}"))
}

/// Tells an hour of an office's server, a sample a minute; all of it fails or none.
async fn tell(peer: &mut Peer, seq: u64, from: i64, fails: bool) {
    let times: Vec<i64> = (0..60).map(|minute| from + minute * MINUTE_MS).collect();
    let outcome = |_| {
        if fails {
            Outcome::Failed(Reason::Timeout.into())
        } else {
            Outcome::Ok { rtt_us: 700 }
        }
    };
    // Of a boot before this one, whose clock was right.
    let told = entry_of(&[7; 16], seq, heartbeat_of("server", &times, outcome));
    assert!(peer.send(told).await);
    loop {
        match peer.next().await.expect("goes on") {
            Some(wire::collector_message::Kind::Ack(ack)) if ack.seq >= seq => break,
            Some(_) => {}
            None => panic!("the stream ended"),
        }
    }
}

async fn csv(collector: &Collector, query: &str) -> Vec<Vec<String>> {
    let text = collector
        .get(&format!("/laporan.csv?{query}"))
        .await
        .expect("an answer");
    let lines = text.lines().skip(1);
    lines
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect()
}

/// Month, revision, code, per cent.
fn told(line: &[String]) -> [&str; 4] {
    [&line[0], &line[1], &line[3], &line[12]].map(String::as_str)
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "the same figures in three forms")]
async fn a_month_is_reported_as_page_table_and_paper() {
    let collector = Collector::start(CONFIG).await;
    let (end, month) = last_month();
    let day = end - DAY_MS;
    let mut peer = Peer::join(collector.ingest, "a-1", BootId([8; 16]))
        .await
        .expect("joins");
    // From 08:00 to 12:00 of the last day, an hour of it down.
    for hour in 8..12 {
        let seq = u64::try_from(hour - 7).expect("small");
        tell(&mut peer, seq, day + hour * HOUR_MS, hour == 9).await;
    }
    let query = format!("region=36.73&month={month}");
    let read = || async {
        let lines = csv(&collector, &query).await;
        (told(&lines[0]) == [&month, "1", "36.73.02", "75"]).then_some(lines)
    };
    let lines = eventually("the month is reported", Duration::from_secs(30), read).await;
    assert_eq!(told(&lines[1]), [&month, "1", "36.73.03", ""]);
    // Asked again it is the same; of what comes late there is another.
    assert_eq!(csv(&collector, &query).await, lines);
    tell(&mut peer, 5, day + 12 * HOUR_MS, false).await;
    let read = || async {
        let lines = csv(&collector, &query).await;
        (told(&lines[0]) == [&month, "2", "36.73.02", "80"]).then_some(())
    };
    eventually("there is a second revision", Duration::from_secs(30), read).await;
    // Another question has numbers of its own; a month that goes on has none.
    let other = csv(&collector, &format!("by=regency&month={month}")).await;
    assert_eq!(told(&other[0]), [&month, "1", "36.73", "80"]);
    let present = csv(&collector, "region=36.73").await;
    assert_eq!(present[0][1], "");

    let paper = collector
        .request(Method::GET, &format!("/laporan.pdf?{query}"))
        .send()
        .await
        .expect("answers");
    assert_eq!(paper.headers()["content-type"], "application/pdf");
    let name = paper.headers()["content-disposition"]
        .to_str()
        .expect("text");
    assert_eq!(
        name,
        format!("attachment; filename=\"denyut-36.73-{month}.pdf\"")
    );
    let folder = tempfile::tempdir().expect("tempdir");
    let file = folder.path().join("laporan.pdf");
    std::fs::write(&file, paper.bytes().await.expect("reads")).expect("writes");
    let read = Command::new("pdftotext")
        .args(["-layout".as_ref(), file.as_os_str(), "-".as_ref()])
        .output()
        .expect("pdftotext is installed (Debian: poppler-utils)");
    let text = String::from_utf8_lossy(&read.stdout);
    for wanted in [
        "PEMERINTAH KOTA SERANG",
        "Jl. Jenderal Sudirman 5, Serang",
        "Ketersediaan jaringan e-KTP – Kota Serang",
        "Revisi 2 (",
        "Cipocok Jaya 36.73.02",
        "80,00%",
        "1 jam",
        "Waktu yang tidak teramati",
        "Cara menghitung",
        "1/1",
        "248 jam",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let drawn = Command::new("pdftoppm")
        .args([
            "-png".as_ref(),
            "-r".as_ref(),
            "80".as_ref(),
            file.as_os_str(),
        ])
        .arg(picture("report"))
        .status()
        .expect("pdftoppm is installed (Debian: poppler-utils)");
    assert!(drawn.success());

    let browser = Browser::open(Screen::Laptop).await;
    browser.enter(&collector, "siti").await;
    browser
        .visit(&format!("http://{}/laporan?{query}", collector.api))
        .await;
    shows(
        &browser,
        &[
            "Kota Serang",
            "Revisi 2 (",
            "Cipocok Jaya 36.73.02",
            "80,00%",
            "Kasemen",
            "Cara menghitung",
        ],
    )
    .await;
    browser.screenshot(&picture("report-laptop-id.png")).await;
    for (wrong, named) in [
        ("month=2026-13", "Bulan “2026-13”"),
        ("month=2199-01", "belum dimulai"),
        ("by=desa", "`by` “desa”"),
        ("hours=night", "Jam buka “night”: bukan salah satu pilihan"),
        ("region=x", "Kode wilayah “x”: bukan kode wilayah"),
    ] {
        let request = collector.request(Method::GET, &format!("/laporan?{wrong}"));
        let answer = request
            .header("accept", "text/html")
            .send()
            .await
            .expect("answers");
        let (status, text) = (answer.status(), answer.text().await.expect("text"));
        assert!(
            status == 400 && text.contains(named) && text.contains("<main"),
            "{wrong}: {status} {text}"
        );
    }
}
