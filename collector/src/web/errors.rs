//! What the API says is wrong, in Bahasa Indonesia: its English words are the keys (`errors.json`), `{}` stands for what changes. What has no words there stays English.

use super::text::Language;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static WORDS: LazyLock<BTreeMap<String, String>> =
    LazyLock::new(|| serde_json::from_str(include_str!("errors.json")).expect("our own file"));

/// An error in the language of a page.
pub(super) fn told(language: Language, detail: &str) -> String {
    match language {
        Language::En => detail.to_owned(),
        Language::Id => in_indonesian(detail),
    }
}

fn in_indonesian(detail: &str) -> String {
    // An `Invalid`: the field, the value, what is wrong with it, and what to do.
    let invalid = detail
        .strip_prefix('`')
        .and_then(|rest| rest.split_once("` = `"));
    let said = invalid.and_then(|(field, rest)| Some((field, rest.split_once("`: ")?)));
    let Some((field, (value, said))) = said else {
        return words(detail);
    };
    let (problem, fix) = said.split_once("; ").unwrap_or((said, ""));
    // The page knows one office only, and a table by its lines.
    let place = field.rsplit_once('.').map_or("", |(place, _)| place);
    let name = field.rsplit('.').next().unwrap_or(field);
    let place = match place.strip_prefix("line ") {
        Some(line) => format!("baris {line}, "),
        None => String::new(),
    };
    let name = words(&format!("`{name}`"));
    let value = if value.is_empty() || value == "…" {
        String::new()
    } else {
        format!(" “{value}”")
    };
    let fix = if fix.is_empty() {
        String::new()
    } else {
        format!("; {}", words(fix))
    };
    format!("{place}{name}{value}: {}{fix}", words(problem))
}

/// A text in the words that fit it: of several those with the most letters of their own.
fn words(text: &str) -> String {
    if let Some(same) = WORDS.get(text) {
        return same.clone();
    }
    let fitting = WORDS.iter().filter_map(|(english, indonesian)| {
        Some((english.len(), indonesian, gaps(english, text)?))
    });
    let Some((_, indonesian, gaps)) = fitting.max_by_key(|(length, ..)| *length) else {
        return text.to_owned();
    };
    let mut parts = indonesian.split("{}");
    let mut made = parts.next().unwrap_or_default().to_owned();
    for (part, gap) in parts.zip(gaps) {
        made += &in_indonesian(gap);
        made += part;
    }
    made
}

/// What stands in the gaps of a pattern; none if it does not fit.
fn gaps<'a>(pattern: &str, text: &'a str) -> Option<Vec<&'a str>> {
    let mut parts = pattern.split("{}");
    let mut rest = text.strip_prefix(parts.next()?)?;
    let parts: Vec<&str> = parts.collect();
    let (last, between) = parts.split_last()?;
    let mut found = Vec::new();
    for part in between {
        let (gap, behind) = rest.split_once(part)?;
        found.push(gap);
        rest = behind;
    }
    found.push(rest.strip_suffix(last)?);
    found.iter().all(|gap| !gap.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn errors_are_told_in_indonesian() {
        for (english, indonesian) in [
            (
                "`text` = ``: empty; write what you know",
                "Keterangan: kosong; tulis apa yang Anda ketahui",
            ),
            (
                "`offices[0].hours` = `Senen`: not a day (Mon, Tue, Wed, Thu, Fri, Sat, Sun); write it like `Mon-Thu 08:00-16:00, Fri 08:00-11:30 13:00-16:30`, or `always`",
                "Jam buka “Senen”: bukan hari (Sen, Sel, Rab, Kam, Jum, Sab, Min); tulis seperti `Sen-Kam 08:00-16:00, Jum 08:00-11:30 13:00-16:30`, atau `always` (selalu)",
            ),
            (
                "`csv` = `…`: line 3: `latitude` = `6,1`: not a number; write degrees like `-6.1201` with a point; mend that line, and send all of it again",
                "Tabel: baris 3: Lintang “6,1”: bukan angka",
            ),
            (
                "`line 3.code` = `36.73.3`: not an official region code; write plain text",
                "baris 3, Kode kantor “36.73.3”: bukan kode wilayah resmi; tulis teks biasa",
            ),
            (
                "there is no link a/b at office 36.73.02",
                "tidak ada jalur a/b di kantor 36.73.02",
            ),
            ("there is no office 99.99.99", "tidak ada kantor 99.99.99"),
            ("nobody has words for this", "nobody has words for this"),
        ] {
            assert_eq!(told(Language::En, english), english);
            let told = told(Language::Id, english);
            assert!(told.starts_with(indonesian), "{told}");
        }
    }

    /// What nobody says any more has no words here.
    #[test]
    fn every_error_is_one_that_somebody_makes() {
        fn read(folder: &Path, all: &mut String) {
            for entry in std::fs::read_dir(folder).expect("is there") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    read(&path, all);
                } else if path.extension().is_some_and(|kind| kind == "rs")
                    && !path.ends_with("errors.rs")
                {
                    *all += &std::fs::read_to_string(&path).expect("reads");
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut sources = String::new();
        for folder in ["src", "detect/src", "../proto/src"] {
            read(&root.join(folder), &mut sources);
        }
        for (english, indonesian) in WORDS.iter() {
            assert_eq!(
                english.matches("{}").count(),
                indonesian.matches("{}").count(),
                "{english}"
            );
            // A field's name is one of ours, not a sentence.
            if english.starts_with('`') && english.ends_with('`') && !english.contains(' ') {
                continue;
            }
            let is_said =
                |part: &str| sources.contains(part) || sources.contains(&part.replace('"', "\\\""));
            assert!(english.split("{}").all(is_said), "nobody says {english:?}");
        }
    }
}
