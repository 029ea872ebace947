//! Paper: A4 pages with a letterhead, headings, paragraphs and tables. Text is set in Helvetica, one of the fonts that every reader of PDF has (ISO 32000-1, 9.6.2.2).

use pdf_writer::{Content, Date, Finish, Name, Pdf, Rect, Ref, Str, TextStr};

/// A4 in points (1/72 inch), and its margins.
const WIDTH: f32 = 595.0;
const HEIGHT: f32 = 842.0;
const LEFT: f32 = 56.0;
const RIGHT: f32 = 48.0;
const TOP: f32 = 48.0;
const BOTTOM: f32 = 56.0;
const BODY: f32 = 9.0;
const LEADING: f32 = 1.4;
/// Room between the cells of a table.
const GAP: f32 = 6.0;

/// Widths of Helvetica's signs from 32 to 126, in thousandths of the size (Adobe's font metrics).
const HELVETICA: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556,
    556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667,
    611, 778, 722, 278, 500, 667, 556, 833, 722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667,
    667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500,
    222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
];

/// The weight of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Plain,
    Bold,
}

impl Weight {
    const fn name(self) -> Name<'static> {
        match self {
            Self::Plain => Name(b"P"),
            Self::Bold => Name(b"B"),
        }
    }
}

/// A text in the bytes of Windows-1252, which is what the font is told; what that does not have is a question mark.
fn encode(text: &str) -> Vec<u8> {
    let byte = |sign: char| match sign {
        '–' => 0x96,
        '—' => 0x97,
        '‘' => 0x91,
        '’' => 0x92,
        '“' => 0x93,
        '”' => 0x94,
        '•' => 0x95,
        '…' => 0x85,
        '€' => 0x80,
        '\u{20}'..='\u{7e}' | '\u{a0}'..='\u{ff}' => u8::try_from(u32::from(sign)).unwrap_or(b'?'),
        _ if sign.is_whitespace() => b' ',
        _ => b'?',
    };
    text.chars().map(byte).collect()
}

/// How wide a text is, in points. Bold is a little wider than it says; nothing hangs on it.
fn width(text: &str, size: f32) -> f32 {
    let of = |byte: u8| match byte {
        32..=126 => HELVETICA[usize::from(byte - 32)],
        _ => 556,
    };
    let thousandths: u32 = encode(text)
        .into_iter()
        .map(|byte| u32::from(of(byte)))
        .sum();
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    let width = thousandths as f32 / 1_000.0 * size;
    width
}

/// A text as lines that are no wider than this.
fn wrap(text: &str, size: f32, most: f32) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        let longer = if line.is_empty() {
            word.to_owned()
        } else {
            format!("{line} {word}")
        };
        if width(&longer, size) <= most || line.is_empty() {
            *line = longer;
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A text cut to a width, with dots where it was cut.
fn cut(text: &str, size: f32, most: f32) -> String {
    if width(text, size) <= most {
        return text.to_owned();
    }
    let mut short = text.to_owned();
    while !short.is_empty() && width(&short, size) + width("…", size) > most {
        short.pop();
    }
    short + "…"
}

/// A column of a table.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) title: String,
    /// In points.
    pub(super) width: f32,
    /// Its numbers stand under each other.
    pub(super) is_number: bool,
}

/// A paper that is being written.
pub(super) struct Paper {
    title: String,
    language: &'static str,
    pages: Vec<Content>,
    /// How far down this page is written, from its lower edge.
    y: f32,
}

impl Paper {
    pub(super) fn new(title: String, language: &'static str) -> Self {
        Self {
            title,
            language,
            pages: vec![Content::new()],
            y: HEIGHT - TOP,
        }
    }

    fn page(&mut self) -> &mut Content {
        self.pages.last_mut().expect("there is a first page")
    }

    /// The next page if so much does not fit on this one; whether it is a new one.
    fn room(&mut self, height: f32) -> bool {
        if self.y - height >= BOTTOM {
            return false;
        }
        self.pages.push(Content::new());
        self.y = HEIGHT - TOP;
        true
    }

    fn text(&mut self, x: f32, text: &str, size: f32, weight: Weight) {
        let (y, bytes) = (self.y, encode(text));
        let page = self.page();
        page.begin_text();
        page.set_font(weight.name(), size);
        page.next_line(x, y);
        page.show(Str(&bytes));
        page.end_text();
    }

    fn rule(&mut self, thick: f32) {
        let y = self.y;
        let page = self.page();
        page.set_line_width(thick);
        page.move_to(LEFT, y);
        page.line_to(WIDTH - RIGHT, y);
        page.stroke();
    }

    /// The letterhead: lines in the middle, the second from below the largest, and a double rule under them.
    pub(super) fn letterhead(&mut self, lines: &[String]) {
        for (place, line) in lines.iter().enumerate() {
            let (size, weight) = if place + 1 == lines.len() && lines.len() > 1 {
                (BODY, Weight::Plain)
            } else {
                (13.0, Weight::Bold)
            };
            let line = cut(line, size, WIDTH - LEFT - RIGHT);
            self.y -= size * LEADING;
            let x = (WIDTH - width(&line, size)) / 2.0;
            self.text(x, &line, size, weight);
        }
        if !lines.is_empty() {
            self.y -= 8.0;
            self.rule(1.5);
            self.y -= 2.0;
            self.rule(0.5);
            self.y -= 8.0;
        }
    }

    pub(super) fn heading(&mut self, text: &str, size: f32) {
        self.room(size * LEADING * 3.0);
        self.y -= size * LEADING;
        let text = cut(text, size, WIDTH - LEFT - RIGHT);
        self.text(LEFT, &text, size, Weight::Bold);
        self.y -= 2.0;
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        for line in wrap(text, BODY, WIDTH - LEFT - RIGHT) {
            self.room(BODY * LEADING);
            self.y -= BODY * LEADING;
            self.text(LEFT, &line, BODY, Weight::Plain);
        }
        self.y -= 4.0;
    }

    /// A table; its head is repeated on each page. The last `bold` rows are bold.
    pub(super) fn table(&mut self, columns: &[Column], rows: &[Vec<String>], bold: usize) {
        let titles: Vec<String> = columns.iter().map(|column| column.title.clone()).collect();
        self.room(BODY * LEADING * 4.0);
        self.head(columns, &titles);
        for (place, row) in rows.iter().enumerate() {
            if self.room(BODY * LEADING + 2.0) {
                self.head(columns, &titles);
            }
            let weight = if place + bold >= rows.len() {
                Weight::Bold
            } else {
                Weight::Plain
            };
            self.row(columns, row, weight);
        }
        self.y -= 4.0;
        self.rule(0.5);
        self.y -= 8.0;
    }

    fn head(&mut self, columns: &[Column], titles: &[String]) {
        self.row(columns, titles, Weight::Bold);
        self.y -= 4.0;
        self.rule(0.5);
    }

    fn row(&mut self, columns: &[Column], cells: &[String], weight: Weight) {
        self.y -= BODY * LEADING;
        let mut x = LEFT;
        for (column, cell) in columns.iter().zip(cells) {
            // What is bold is a tenth wider.
            let most = (column.width - GAP) / if weight == Weight::Bold { 1.1 } else { 1.0 };
            if column.is_number {
                // A figure is smaller rather than cut.
                let size = BODY.min(BODY * most / width(cell, BODY).max(1.0));
                let from = x + column.width - GAP - width(cell, size);
                self.text(from, cell, size, weight);
            } else {
                self.text(x, &cut(cell, BODY, most), BODY, weight);
            }
            x += column.width;
        }
    }

    /// The paper as a file, with this text and the number of the page at the foot of each. `made` is year, month, day, hour, minute (UTC).
    pub(super) fn finish(mut self, foot: &str, made: (u16, u8, u8, u8, u8)) -> Vec<u8> {
        let count = self.pages.len();
        for place in 0..count {
            let number = format!("{} / {count}", place + 1);
            let foot = cut(foot, 7.5, WIDTH - LEFT - RIGHT - 60.0);
            let page = &mut self.pages[place];
            for (x, text) in [
                (LEFT, &foot),
                (WIDTH - RIGHT - width(&number, 7.5), &number),
            ] {
                page.begin_text();
                page.set_font(Weight::Plain.name(), 7.5);
                page.next_line(x, BOTTOM - 24.0);
                page.show(Str(&encode(text)));
                page.end_text();
            }
        }
        let mut next = 1;
        let mut fresh = || {
            let made = Ref::new(next);
            next += 1;
            made
        };
        let (catalog, tree, plain, bold, info) = (fresh(), fresh(), fresh(), fresh(), fresh());
        let ids: Vec<(Ref, Ref)> = self.pages.iter().map(|_| (fresh(), fresh())).collect();
        let mut pdf = Pdf::new();
        pdf.catalog(catalog)
            .pages(tree)
            .lang(TextStr(self.language))
            .viewer_preferences()
            .display_doc_title(true);
        let count = i32::try_from(ids.len()).unwrap_or(i32::MAX);
        pdf.pages(tree)
            .kids(ids.iter().map(|(page, _)| *page))
            .count(count);
        for ((id, content), written) in ids.iter().zip(self.pages) {
            let mut page = pdf.page(*id);
            page.media_box(Rect::new(0.0, 0.0, WIDTH, HEIGHT));
            page.parent(tree);
            page.contents(*content);
            let mut resources = page.resources();
            let mut fonts = resources.fonts();
            fonts.pair(Weight::Plain.name(), plain);
            fonts.pair(Weight::Bold.name(), bold);
            fonts.finish();
            resources.finish();
            page.finish();
            pdf.stream(*content, &written.finish());
        }
        for (id, name) in [(plain, &b"Helvetica"[..]), (bold, b"Helvetica-Bold")] {
            pdf.type1_font(id)
                .base_font(Name(name))
                .encoding_predefined(Name(b"WinAnsiEncoding"));
        }
        let (year, month, day, hour, minute) = made;
        let date = Date::new(year)
            .month(month)
            .day(day)
            .hour(hour)
            .minute(minute);
        pdf.document_info(info)
            .title(TextStr(&self.title))
            .producer(TextStr("denyut"))
            .creation_date(date.second(0).utc_offset_hour(0).utc_offset_minute(0));
        pdf.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_fits_where_it_stands() {
        assert!((width("0,00%", 10.0) - (3.0 * 5.56 + 2.78 + 8.89)).abs() < 0.01);
        let lines = wrap("satu dua tiga empat lima enam tujuh", 9.0, 60.0);
        assert!(
            lines.len() > 2 && lines.iter().all(|line| width(line, 9.0) <= 60.0),
            "{lines:?}"
        );
        let short = cut("Kecamatan dengan nama yang panjang sekali", 9.0, 80.0);
        assert!(
            short.ends_with('…') && width(&short, 9.0) <= 80.0,
            "{short}"
        );
        assert_eq!(cut("pendek", 9.0, 80.0), "pendek");
        assert_eq!(encode("a–é漢\n"), [b'a', 0x96, 0xe9, b'?', b' ']);
    }

    #[test]
    fn a_long_table_goes_on_with_its_head() {
        let mut paper = Paper::new("x".to_owned(), "id");
        paper.letterhead(&["PEMERINTAH KOTA".to_owned(), "Jl. A 1".to_owned()]);
        let columns = [
            Column {
                title: "Kantor".to_owned(),
                width: 200.0,
                is_number: false,
            },
            Column {
                title: "Persen".to_owned(),
                width: 80.0,
                is_number: true,
            },
        ];
        let rows: Vec<_> = (0..150)
            .map(|n| vec![format!("K{n}"), n.to_string()])
            .collect();
        paper.table(&columns, &rows, 1);
        assert_eq!(paper.pages.len(), 3);
        let file = paper.finish("kaki", (2026, 11, 26, 15, 0));
        assert!(file.starts_with(b"%PDF-1.7") && file.ends_with(b"%%EOF"));
        let text = String::from_utf8_lossy(&file);
        assert_eq!(text.matches("(Kantor) Tj").count(), 3, "{text}");
        assert!(text.contains("(3 / 3) Tj"));
    }
}
