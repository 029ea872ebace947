//! Who is told in Telegram answers there; a contract server stands for Telegram.

use crate::alerts::{OFFICES, WITHIN, agent, nowhere};
use denyut_tests::hook::{Answer, Hook, Request};
use denyut_tests::{Collector, eventually};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What people do, as Telegram tells it: kept until it was asked for what comes after.
#[derive(Clone, Default)]
struct Updates(Arc<Mutex<Vec<Value>>>);

impl Updates {
    fn add(&self, mut update: Value) {
        let mut all = self.0.lock().expect("is sound");
        // After a while Telegram counts from anywhere.
        let from = if all.len() < 12 { 1_000 } else { 500 };
        update["update_id"] = json!(from + all.len());
        all.push(update);
    }

    /// `/text` from somebody in a chat.
    fn say(&self, user: i64, chat: i64, text: &str) {
        self.add(json!({"message": {
            "message_id": 50, "date": 1, "text": text,
            "from": {"id": user, "is_bot": false, "first_name": "x"},
            "chat": {"id": chat, "type": "group"},
        }}));
    }

    fn press(&self, user: i64, chat: i64, data: &str, under: &Value) {
        self.add(json!({"callback_query": {
            "id": "77", "data": data, "chat_instance": "1",
            "from": {"id": user, "is_bot": false, "first_name": "x"},
            "message": {"message_id": 7, "chat": {"id": chat, "type": "group"}, "reply_markup": under},
        }}));
    }
}

/// Telegram, as far as its API is used.
fn telegram(updates: &Updates) -> Hook {
    let updates = updates.clone();
    Hook::answering(move |request: &Request| {
        let method = request.line.rsplit('/').next().unwrap_or_default();
        let result = match method {
            "getUpdates" => {
                let next = request.json()["offset"].as_u64().unwrap_or(0);
                let all = updates.0.lock().expect("is sound").clone();
                let after = all.into_iter();
                // What was said before was confirmed; a number that it never said confirms nothing.
                let place = after
                    .clone()
                    .position(|one| one["update_id"].as_u64() == Some(next));
                let said = after
                    .clone()
                    .position(|one| one["update_id"].as_u64() == next.checked_sub(1));
                let from = place.or(said.map(|at| at + 1)).unwrap_or(0);
                let after: Vec<Value> = after.skip(from).collect();
                if after.is_empty() {
                    std::thread::sleep(Duration::from_millis(200));
                }
                json!(after)
            }
            "sendMessage" => json!({"message_id": 7}),
            _ => json!(true),
        };
        Answer::of(200, json!({"ok": true, "result": result}).to_string())
    })
}

/// The calls of a method, so far.
fn calls(hook: &Hook, method: &str) -> Vec<Value> {
    let all = hook.taken().into_iter();
    all.filter(|one| one.line.ends_with(method))
        .map(|one| one.json())
        .collect()
}

async fn call(hook: &Hook, method: &str, count: usize) -> Value {
    let look = || async { calls(hook, method).get(count - 1).cloned() };
    eventually(&format!("{method} {count}"), WITHIN, look).await
}

/// The last text that was sent, once it fits.
async fn answered(hook: &Hook, fits: impl Fn(&str) -> bool) -> String {
    let look = || async {
        let all = calls(hook, "sendMessage");
        let texts = all.iter().filter_map(|one| one["text"].as_str());
        texts.rev().find(|text| fits(text)).map(str::to_owned)
    };
    eventually("an answer", WITHIN, look).await
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one conversation")]
async fn who_is_listed_acknowledges_notes_and_silences_and_nobody_else_does() {
    let updates = Updates::default();
    let hook = telegram(&updates);
    let token = tempfile::NamedTempFile::new().expect("makes");
    std::fs::write(token.path(), "12:rahasia-sekali\n").expect("writes");
    let api = format!(
        "token_file = \"{}\", api = \"http://{}\"",
        token.path().display(),
        hook.address
    );
    // One bot in the chats of two regions.
    let config = format!(
        "[[office]]\ncode = \"32.01.01\"\nname = \"Cibinong\"\nagents = [\"c-1\"]\n{OFFICES}\
         [alert]\ngroup_wait = \"1s\"\ngroup_interval = \"1s\"\n\
         [[receiver]]\nname = \"serang\"\nrole = \"regency\"\nregions = [\"36.73\"]\npace = \"0s\"\n\
         telegram = {{ chat = \"-1\", {api}, users = [{{ id = 5, name = \"Siti\" }}] }}\n\
         [[receiver]]\nname = \"bogor\"\nrole = \"regency\"\nregions = [\"32.01\"]\npace = \"0s\"\n\
         telegram = {{ chat = \"-2\", {api}, users = [{{ id = 6, name = \"Budi\" }}] }}\n\
         [[route]]\nrole = \"regency\"\n"
    );
    let mut collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", nowhere());
    let first = call(&hook, "sendMessage", 1).await;
    let under = first["reply_markup"].clone();
    assert_eq!(
        under,
        json!({"inline_keyboard": [[{"text": "✅ Cipocok Jaya", "callback_data": "ack 1"}]]})
    );
    assert_eq!(first["chat_id"], -1);
    let acknowledged = || async {
        let incident = collector.json("/api/v1/incidents/1").await;
        incident["acknowledged"]["by"].as_str().map(str::to_owned)
    };
    // A stranger, a chat that nobody knows, and the chat of another region.
    updates.press(99, -1, "ack 1", &under);
    assert!(
        call(&hook, "answerCallbackQuery", 1).await["text"]
            .as_str()
            .is_some_and(|text| text.contains("99"))
    );
    updates.say(5, -3, "/ack 1");
    updates.say(6, -2, "/ack 1");
    answered(&hook, |text| text == "Tidak ada insiden #1 untuk grup ini.").await;
    updates.say(99, -1, "/ack 1");
    answered(&hook, |text| text.contains("berikan nomor 99")).await;
    updates.say(6, -2, "/senyap 36.73.02 8h x");
    answered(&hook, |text| text.contains("Wilayah 36.73.02 bukan")).await;
    updates.say(6, -2, "/insiden");
    answered(&hook, |text| text == "Tidak ada gangguan saat ini.").await;
    assert_eq!(acknowledged().await, None);

    updates.say(5, -1, "/insiden@denyut_bot");
    answered(&hook, |text| {
        text.starts_with("#1 Cipocok Jaya: Server perekaman mati sejak ")
    })
    .await;
    updates.say(5, -1, "/status");
    answered(&hook, |text| {
        text == "2 kantor dipantau, 1 gangguan berlangsung, 1 belum ditangani."
    })
    .await;
    updates.press(5, -1, "ack 1", &under);
    let pressed = call(&hook, "answerCallbackQuery", 2).await;
    assert_eq!(
        pressed,
        json!({"callback_query_id": "77", "text": "Insiden #1 kini ditangani Siti."})
    );
    let edited = call(&hook, "editMessageReplyMarkup", 1).await;
    assert_eq!(
        edited,
        json!({"chat_id": -1, "message_id": 7, "reply_markup": {"inline_keyboard": []}})
    );
    assert_eq!(acknowledged().await.as_deref(), Some("Siti"));
    answered(&hook, |text| text.contains("; ditangani Siti.")).await;
    updates.say(5, -1, "/catat #1 modem\nsudah diganti");
    answered(&hook, |text| text == "Dicatat pada insiden #1.").await;
    updates.say(5, -1, "/senyap 36.73.02 8h server dipindah");
    answered(&hook, |text| text.starts_with("36.73.02 senyap sampai ")).await;
    for (command, answer) in [
        ("/ack", "Tulis seperti: /ack 12"),
        ("/ack 99", "Tidak ada insiden #99"),
        ("/senyap 36.73.02 8h", "Tulis seperti: /senyap"),
        ("/senyap 36.73.02 sebentar x", "Ditolak: `for` = `sebentar`"),
        ("/apa", "/status – ringkasan"),
    ] {
        updates.say(5, -1, command);
        answered(&hook, |text| text.starts_with(answer)).await;
    }
    let incident = collector.json("/api/v1/incidents/1").await;
    let steps = incident["steps"].as_array().expect("a list").clone();
    assert_eq!(steps.len(), 2, "{incident}");
    assert_eq!(steps[1]["text"], "modem\nsudah diganti");
    let silences = collector.json("/api/v1/silences").await;
    assert_eq!(
        (&silences[0]["by"], &silences[0]["why"]),
        (&json!("Siti"), &json!("server dipindah"))
    );

    // What it heard it does not hear again, whoever is killed.
    let before = calls(&hook, "sendMessage").len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(calls(&hook, "sendMessage").len(), before);
    collector.kill();
    collector.launch().await;
    let asked = calls(&hook, "getUpdates").len();
    call(&hook, "getUpdates", asked + 2).await;
    updates.say(5, -1, "/status");
    answered(&hook, |text| text.ends_with("0 belum ditangani.")).await;
    assert_eq!(calls(&hook, "sendMessage").len(), before + 1);
    let incident = collector.json("/api/v1/incidents/1").await;
    assert_eq!(incident["steps"].as_array().map(Vec::len), Some(2));
    // Something else listens for the bot: it goes on when that has stopped.
    hook.answer(&[Answer::of(409, r#"{"ok":false,"error_code":409,"description":"Conflict: terminated by other getUpdates request"}"#)]);
    let warned = || async {
        collector
            .log()
            .contains("another program listens for this bot")
            .then_some(())
    };
    eventually("the operator is told", Duration::from_secs(10), warned).await;
    updates.say(5, -1, "/help");
    answered(&hook, |text| text.starts_with("/status – ")).await;
    assert!(!collector.log().contains("rahasia"));
}
