//! Texts that people write and others read: on pages, in feeds, in chats, on terminals.

use denyut_proto::Invalid;

/// Characters of what something or somebody is called, at most.
pub(crate) const NAME_MOST: usize = 100;

/// What has no place in any text: it cannot be written as XML, or makes a text look like another.
fn is_odd(c: char) -> bool {
    let turns_direction =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_invisible = matches!(
        c,
        '\u{ad}' | '\u{115f}' | '\u{1160}' | '\u{200b}' | '\u{2028}' | '\u{2029}' | '\u{2060}'
            ..='\u{2064}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
    );
    let is_no_character = u32::from(c) & 0xfffe == 0xfffe || matches!(c, '\u{fdd0}'..='\u{fdef}');
    c.is_control() || turns_direction || is_invisible || is_no_character
}

fn check(
    field: &str,
    text: &str,
    most: usize,
    is_odd: impl Fn(char) -> bool,
) -> Result<(), Invalid> {
    if text.chars().count() > most {
        let fix = format!("write at most {most} characters");
        return Err(Invalid::new(field, text.escape_debug(), "too long", fix));
    }
    if let Some(odd) = text.chars().find(|c| is_odd(*c)) {
        return Err(Invalid::new(
            field,
            text.escape_debug(),
            format!(
                "it holds the character U+{:04X}, which nobody sees, or which changes what others see",
                u32::from(odd)
            ),
            "write plain text",
        ));
    }
    Ok(())
}

/// A text of at most so many characters, trimmed; its lines are kept.
pub(crate) fn lines(field: &str, text: &str, most: usize) -> Result<String, Invalid> {
    let text = text.trim();
    check(field, text, most, |c| c != '\n' && is_odd(c))?;
    Ok(text.to_owned())
}

/// The same on one line.
pub(crate) fn line(field: &str, text: &str, most: usize) -> Result<String, Invalid> {
    let text = text.trim();
    check(field, text, most, is_odd)?;
    Ok(text.to_owned())
}

/// What something is called: one line, with a letter or a digit in it.
pub(crate) fn name(field: &str, text: &str, most: usize) -> Result<String, Invalid> {
    let name = line(field, text, most)?;
    if !name.contains(char::is_alphanumeric) {
        let fix = format!("write 1 to {most} characters, a letter or a digit among them");
        return Err(Invalid::new(field, name.escape_debug(), "not a name", fix));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_another_text_is_refused() {
        for odd in [
            "\u{202e}kopiC",
            "a\u{0}b",
            "Kec. \u{ffff}",
            "\u{1fffe}",
            "Ci\u{200b}pocok",
            "a\tb",
        ] {
            let error = line("name", odd, 100).expect_err("is refused").to_string();
            assert!(error.contains("U+") && error.contains("`name`"), "{error}");
        }
        assert!(line("why", "a\nb", 100).is_err());
        assert_eq!(lines("why", " a\nb ", 100).as_deref(), Ok("a\nb"));
        assert!(line("why", "cccc", 3).is_err());
        for plain in ["Cipocok Jaya", "Kec. \u{201c}X\u{201d}", "سيرانغ", "2 ×"] {
            assert_eq!(name("name", plain, 100).as_deref(), Ok(plain));
        }
        for none in ["", "  ", "---", "\u{200d}"] {
            assert!(name("name", none, 100).is_err(), "{none:?}");
        }
    }
}
