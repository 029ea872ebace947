//! The words of pages that the collector writes itself, from the same catalogues as those of the scripts.

use axum::http::{HeaderMap, header};
use std::collections::HashMap;
use std::sync::LazyLock;

/// A language of the pages: Bahasa Indonesia unless somebody asks for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Language {
    #[default]
    Id,
    En,
}

static TEXTS: LazyLock<[HashMap<String, String>; 2]> = LazyLock::new(|| {
    let read =
        |text| serde_json::from_str(text).expect("the catalogue is JSON of texts: a test says so");
    [read(super::ID), read(super::EN)]
});

impl Language {
    /// The code of the language.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::En => "en",
        }
    }

    fn of_code(code: &str) -> Option<Self> {
        match code {
            "id" => Some(Self::Id),
            "en" => Some(Self::En),
            _ => None,
        }
    }

    /// The one that an address names (`lang=en`), or else a cookie.
    pub(crate) fn of(query: Option<&str>, headers: &HeaderMap) -> Self {
        let named = query.into_iter().flat_map(|query| query.split('&'));
        let cookies = headers.get_all(header::COOKIE).into_iter();
        let cookies = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(';'));
        let mut all = named
            .chain(cookies)
            .filter_map(|pair| pair.trim().strip_prefix("lang="));
        all.find_map(Self::of_code).unwrap_or_default()
    }

    /// A text of the catalogue, with its gaps filled.
    pub(crate) fn say(self, key: &str, gaps: &[(&str, &str)]) -> String {
        let texts = &TEXTS[match self {
            Self::Id => 0,
            Self::En => 1,
        }];
        // A test looks for keys that are missing.
        let mut text = texts.get(key).map_or_else(|| key.to_owned(), Clone::clone);
        for (name, value) in gaps {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        text
    }
}
