//! Passwords: Argon2id, with the parameters that OWASP names first (19 MiB, 2 passes, 1 lane).

use anyhow::anyhow;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use denyut_proto::Invalid;

/// Characters of a password. Length is what makes one strong; NIST SP 800-63B asks for no other rule.
const LEAST: usize = 12;
const MOST: usize = 200;

/// What is kept of a password.
pub(super) fn hash(password: &str) -> anyhow::Result<String> {
    let hash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|error| anyhow!("cannot hash a password: {error}"))?;
    Ok(hash.to_string())
}

/// Whether it is the one. It takes the same time when there is none to compare with.
pub(super) fn is(password: &str, kept: Option<&str>) -> bool {
    let Some(kept) = kept.and_then(|kept| PasswordHash::new(kept).ok()) else {
        hash(password).ok();
        return false;
    };
    Argon2::default()
        .verify_password(password.as_bytes(), &kept)
        .is_ok()
}

/// Whether it may be one of this user.
pub(super) fn check(password: &str, user: &str) -> Result<(), Invalid> {
    // What it is stands in no message.
    let wrong = |problem: &str, fix: &str| Err(Invalid::new("password", "…", problem, fix));
    let length = password.chars().count();
    if !(LEAST..=MOST).contains(&length) {
        return wrong(
            &format!("{length} characters"),
            &format!("write {LEAST} to {MOST}; a sentence is a good one"),
        );
    }
    let mut letters: Vec<char> = password.to_lowercase().chars().collect();
    letters.sort_unstable();
    letters.dedup();
    if letters.len() < 5 || password.to_lowercase().replace(user, "").len() < 8 {
        return wrong("too easy to guess", "write a sentence");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_one_is() {
        let kept = hash("kuda terbang di serang").expect("hashes");
        assert!(
            kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{kept}"
        );
        assert!(is("kuda terbang di serang", Some(&kept)));
        assert!(!is("kuda terbang di Serang", Some(&kept)));
        assert!(!is("kuda terbang di serang", None));
        assert!(!is("", Some("")));
    }

    #[test]
    fn an_easy_one_is_refused_without_being_shown() {
        for easy in [
            "",
            "pendek",
            "aaaaaaaaaaaaaaaa",
            "siti.rahmasiti.rahma",
            "121212121212",
        ] {
            let error = check(easy, "siti.rahma").expect_err(easy).to_string();
            assert!(easy.is_empty() || !error.contains(easy), "{error}");
        }
        check("kuda terbang di serang", "siti.rahma").expect("a good one");
    }
}
