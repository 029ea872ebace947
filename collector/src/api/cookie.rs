//! What browsers are known by.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

/// A cookie of ours: its name over TLS, and its name without. With the prefix of the first a browser takes it from this very host only, and only over
/// TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cookie(&'static str, &'static str);

impl Cookie {
    /// Holds the secret of a session.
    pub(crate) const SESSION: Self = Self("__Host-denyut", "denyut");
    /// Ties a login at an identity provider to the browser that began it.
    pub(crate) const PROVIDER: Self = Self("__Host-denyut-oidc", "denyut-oidc");

    fn name(self, is_https: bool) -> &'static str {
        if is_https { self.0 } else { self.1 }
    }

    /// What a request shows of it.
    pub(crate) fn of(self, headers: &HeaderMap, is_https: bool) -> Option<&str> {
        let cookies = headers.get_all(header::COOKIE).into_iter();
        let mut pairs = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(';'));
        pairs.find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == self.name(is_https)).then_some(value)
        })
    }

    /// Has the browser keep it for so many seconds; for none, forget it.
    pub(crate) fn put(self, response: &mut Response, is_https: bool, value: &str, seconds: u32) {
        let secure = if is_https { "; Secure" } else { "" };
        let text = format!(
            "{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}",
            self.name(is_https)
        );
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_among_others() {
        let mut headers = HeaderMap::new();
        let all = HeaderValue::from_static("a=b; denyut-oidc=no; denyut=xyz; c");
        headers.insert(header::COOKIE, all);
        assert_eq!(Cookie::SESSION.of(&headers, false), Some("xyz"));
        assert_eq!(Cookie::PROVIDER.of(&headers, false), Some("no"));
        assert_eq!(Cookie::SESSION.of(&headers, true), None);
    }
}
