//! The words of pages that the collector writes itself, from the same catalogues as those of scripts and messages, and what all pages begin with.

use crate::alert::Catalogue;
pub(super) use crate::alert::Language;
use axum::http::{HeaderMap, header};
use maud::{Markup, html};
use std::sync::LazyLock;

static TEXTS: LazyLock<[Catalogue; 2]> = LazyLock::new(|| {
    let read =
        |language| Catalogue::of(language).expect("the catalogue is JSON of texts: a test says so");
    [read(Language::Id), read(Language::En)]
});

/// The texts of a language.
pub(super) fn texts(language: Language) -> &'static Catalogue {
    let [id, en] = &*TEXTS;
    match language {
        Language::Id => id,
        Language::En => en,
    }
}

/// A text of the catalogue, with its gaps filled.
pub(super) fn say(language: Language, key: &str, gaps: &[(&str, &str)]) -> String {
    texts(language).say(key, gaps)
}

/// The language that an address names (`lang=en`), or else a cookie.
pub(super) fn language_of(query: Option<&str>, headers: &HeaderMap) -> Language {
    let named = query.into_iter().flat_map(|query| query.split('&'));
    let cookies = headers.get_all(header::COOKIE).into_iter();
    let cookies = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'));
    let mut all = named
        .chain(cookies)
        .filter_map(|pair| pair.trim().strip_prefix("lang="));
    all.find_map(Language::of_code).unwrap_or_default()
}

/// What stands in the head of each page; `style` is its path.
pub(super) fn head(title: &str, style: &str) -> Markup {
    html! {
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        title { (title) }
        link rel="icon" href="/icon.svg" type="image/svg+xml";
        link rel="stylesheet" href=(style);
    }
}

/// The same page in the other language, and in this.
pub(super) fn languages() -> Markup {
    html! {
        a href="?lang=id" lang="id" hreflang="id" { "Bahasa Indonesia" }
        " · "
        a href="?lang=en" lang="en" hreflang="en" { "English" }
    }
}
