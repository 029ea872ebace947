//! Each chat is spoken to as its API wants it: contract servers check what comes, and answer with what the real ones answer.

use crate::alerts::{OFFICES, WITHIN, act, agent, message, nowhere};
use denyut_tests::hook::{Answer, Hook, Request};
use denyut_tests::{Collector, eventually, said};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// A chat: what its server answers when all is well, and how the collector reaches it.
struct Chat {
    name: &'static str,
    well: &'static str,
    /// `{}` stands for the server's address, `{token}` for a file with a key.
    config: &'static str,
}

const CHATS: [Chat; 14] = [
    Chat {
        name: "telegram",
        well: r#"{"ok":true,"result":{"message_id":7,"chat":{"id":-100123}}}"#,
        config: r#"telegram = { chat = "-100123", topic = 5, token_file = "{token}", api = "{}" }"#,
    },
    Chat {
        name: "whatsapp",
        well: r#"{"messaging_product":"whatsapp","messages":[{"id":"wamid.1"}]}"#,
        config: r#"whatsapp = { phone = "109", to = "62812", token_file = "{token}", template = "denyut", api = "{}/v24.0" }"#,
    },
    Chat {
        name: "whatsapp-text",
        well: r#"{"messaging_product":"whatsapp","messages":[{"id":"wamid.1"}]}"#,
        config: r#"whatsapp = { phone = "109", to = "62812", token_file = "{token}", api = "{}/v24.0" }"#,
    },
    Chat {
        name: "slack",
        well: r#"{"ok":true,"channel":"C1","ts":"1417671948.000006"}"#,
        config: r#"slack = { channel = "C1", token_file = "{token}", api = "{}/api" }"#,
    },
    Chat {
        name: "slack-hook",
        well: "ok",
        config: r#"slack.url = "{}/services/T0/B0/rahasia""#,
    },
    Chat {
        name: "mattermost",
        well: r#"{"id":"post1","channel_id":"c"}"#,
        config: r#"mattermost = { server = "{}", channel = "c", token_file = "{token}" }"#,
    },
    Chat {
        name: "rocketchat",
        well: r#"{"ts":1,"channel":"r","message":{"_id":"rc1","rid":"r"},"success":true}"#,
        config: r#"rocketchat = { server = "{}/chat/", room = "r", user = "u", token_file = "{token}" }"#,
    },
    Chat {
        name: "discord",
        well: r#"{"id":"55","content":"x"}"#,
        config: r#"discord.url = "{}/api/webhooks/1/rahasia""#,
    },
    Chat {
        name: "teams",
        well: "",
        config: r#"teams.url = "{}/invoke?sig=rahasia""#,
    },
    Chat {
        name: "google-chat",
        well: r#"{"name":"spaces/S/messages/1","thread":{"name":"spaces/S/threads/1"}}"#,
        config: r#"google_chat.url = "{}/v1/spaces/S/messages?key=k&token=rahasia""#,
    },
    Chat {
        name: "matrix",
        well: r#"{"event_id":"$e1"}"#,
        config: r#"matrix = { server = "{}", room = "!abc:example", token_file = "{token}" }"#,
    },
    Chat {
        name: "ntfy",
        well: r#"{"id":"n1","event":"message","topic":"denyut"}"#,
        config: r#"ntfy = { server = "{}", topic = "denyut", token_file = "{token}" }"#,
    },
    Chat {
        name: "fonnte",
        well: r#"{"status":true,"detail":"success! message in queue"}"#,
        config: r#"http = { url = "{}/send", token_file = "{token}", headers = { authorization = "{{ token }}", content-type = "application/x-www-form-urlencoded" }, body = "target=62812&message={{ text|urlencode }}", success = "status" }"#,
    },
    Chat {
        name: "waha",
        well: "",
        config: r#"http = { url = "{}/api/sendText", token_file = "{token}", headers = { x-api-key = "{{ token }}", content-type = "application/json" }, body = '{"session":"default","chatId":"62812@c.us","text":{{ text|tojson }},"id":{{ id|tojson }}}' }"#,
    },
];

/// A server for each, and the collector's configuration.
fn servers(token: &Path) -> (BTreeMap<&'static str, Hook>, String) {
    let mut hooks = BTreeMap::new();
    let mut config = format!("{OFFICES}[alert]\ngroup_wait = \"1s\"\ngroup_interval = \"1s\"\n");
    for chat in &CHATS {
        let well = chat.well;
        let hook = Hook::answering(move |_| Answer::of(200, well));
        let way = chat
            .config
            .replace("{token}", &token.display().to_string())
            .replace("{}", &format!("http://{}", hook.address));
        let receiver = format!(
            "[[receiver]]\nname = \"{}\"\npace = \"0s\"\n{way}\n",
            chat.name
        );
        config.push_str(&receiver);
        let route = format!("[[route]]\nreceiver = \"{}\"\n", chat.name);
        config.push_str(&route);
        hooks.insert(chat.name, hook);
    }
    (hooks, config)
}

/// The key of all of them.
fn token() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("makes");
    std::fs::write(file.path(), "12:rahasia-sekali\n").expect("writes");
    file
}

/// What of a request a test looks at: its line, and values of headers and body.
fn looked_at(request: &Request, headers: &[&str], pointers: &[&str]) -> Vec<String> {
    let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
    let headers = headers
        .iter()
        .map(|name| request.headers.get(*name).cloned().unwrap_or_default());
    let values = pointers.iter().map(|pointer| {
        let value = body.pointer(pointer).unwrap_or(&Value::Null);
        value.as_str().map_or(value.to_string(), str::to_owned)
    });
    [request.line.clone()]
        .into_iter()
        .chain(headers)
        .chain(values)
        .collect()
}

/// A chat, the headers and the places of the body that are looked at, and the request's line and their values.
type Expected<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one block for each API")]
async fn each_chat_is_spoken_to_as_its_api_wants_it() {
    let token = token();
    let (hooks, config) = servers(token.path());
    let collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", nowhere());
    let mut first = BTreeMap::new();
    for (name, hook) in &hooks {
        first.insert(*name, message(hook, 1).await);
    }
    let bearer = "Bearer 12:rahasia-sekali";
    let begins = "🔴 Cipocok Jaya: Server perekaman mati sejak ";
    let expected: [Expected<'_>; 11] = [
        (
            "telegram",
            &[],
            &[
                "/chat_id",
                "/message_thread_id",
                "/link_preview_options/is_disabled",
                "/reply_parameters",
                "/reply_markup",
                "/text",
            ],
            &[
                "POST /bot12:rahasia-sekali/sendMessage",
                "-100123",
                "5",
                "true",
                "null",
                "null",
                begins,
            ],
        ),
        (
            "whatsapp",
            &["authorization"],
            &[
                "/messaging_product",
                "/to",
                "/type",
                "/template/name",
                "/template/language/code",
                "/context",
                "/template/components/0/parameters/0/text",
            ],
            &[
                "POST /v24.0/109/messages",
                bearer,
                "whatsapp",
                "62812",
                "template",
                "denyut",
                "id",
                "null",
                begins,
            ],
        ),
        (
            "whatsapp-text",
            &["authorization"],
            &[
                "/recipient_type",
                "/type",
                "/text/preview_url",
                "/text/body",
            ],
            &[
                "POST /v24.0/109/messages",
                bearer,
                "individual",
                "text",
                "false",
                begins,
            ],
        ),
        (
            "slack",
            &["authorization"],
            &["/channel", "/mrkdwn", "/thread_ts", "/text"],
            &[
                "POST /api/chat.postMessage",
                bearer,
                "C1",
                "false",
                "null",
                begins,
            ],
        ),
        (
            "mattermost",
            &["authorization"],
            &["/channel_id", "/root_id", "/message"],
            &["POST /api/v4/posts", bearer, "c", "", begins],
        ),
        (
            "rocketchat",
            &["x-auth-token", "x-user-id"],
            &["/roomId", "/tmid", "/text"],
            &[
                "POST /chat/api/v1/chat.postMessage",
                "12:rahasia-sekali",
                "u",
                "r",
                "null",
                begins,
            ],
        ),
        (
            "discord",
            &[],
            &["/allowed_mentions/parse", "/content"],
            &["POST /api/webhooks/1/rahasia?wait=true", "[]", begins],
        ),
        (
            "teams",
            &[],
            &[
                "/type",
                "/attachments/0/contentType",
                "/attachments/0/content/actions/0/url",
                "/attachments/0/content/body/0/inlines/0/text",
            ],
            &[
                "POST /invoke?sig=rahasia",
                "message",
                "application/vnd.microsoft.card.adaptive",
                "https://denyut.example/insiden/1",
                begins,
            ],
        ),
        (
            "ntfy",
            &["authorization"],
            &[
                "/topic",
                "/title",
                "/priority",
                "/click",
                "/sequence_id",
                "/message",
            ],
            &[
                "POST /",
                bearer,
                "denyut",
                "Cipocok Jaya: Server perekaman mati",
                "4",
                "https://denyut.example/insiden/1",
                "null",
                begins,
            ],
        ),
        (
            "slack-hook",
            &["content-type"],
            &["/text"],
            &["POST /services/T0/B0/rahasia", "application/json", begins],
        ),
        (
            "waha",
            &["x-api-key"],
            &["/chatId", "/text"],
            &[
                "POST /api/sendText",
                "12:rahasia-sekali",
                "62812@c.us",
                begins,
            ],
        ),
    ];
    for (name, headers, pointers, values) in expected {
        let got = looked_at(&first[name], headers, pointers);
        let (text, rest) = got.split_last().expect("some");
        let (begins, wanted) = values.split_last().expect("some");
        assert_eq!(rest, wanted, "{name}");
        assert!(text.starts_with(begins), "{name}: {text}");
    }
    let google = &first["google-chat"];
    assert!(
        google.line.starts_with("POST /v1/spaces/S/messages?key=k&token=rahasia&messageReplyOption=REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD&requestId=denyut-google-chat-1-"),
        "{}", google.line
    );
    let matrix = &first["matrix"];
    assert!(
        matrix.line.starts_with(
            "PUT /_matrix/client/v3/rooms/!abc:example/send/m.room.message/denyut-matrix-1-"
        ),
        "{}",
        matrix.line
    );
    assert_eq!(matrix.json()["m.mentions"], json!({}));
    assert!(
        first["fonnte"]
            .body
            .starts_with("target=62812&message=%F0%9F%94%B4%20Cipocok%20Jaya%3A%20Server"),
        "{}",
        first["fonnte"].body
    );
    // No parameter of a template may hold a new line.
    let text =
        first["whatsapp"].json()["template"]["components"][0]["parameters"][0]["text"].clone();
    assert!(!text.as_str().expect("text").contains('\n'), "{text}");

    // What follows is under the first message, and calls nobody.
    act(
        &collector,
        "acknowledge",
        json!({"by": "Siti <!here> @channel"}),
    )
    .await;
    let mut second = BTreeMap::new();
    for (name, hook) in &hooks {
        second.insert(*name, message(hook, 2).await);
    }
    let threads = [
        ("telegram", "/reply_parameters/message_id", "7"),
        ("whatsapp", "/context/message_id", "wamid.1"),
        ("slack", "/thread_ts", "1417671948.000006"),
        ("mattermost", "/root_id", "post1"),
        ("rocketchat", "/tmid", "rc1"),
        ("matrix", "/m.relates_to/event_id", "$e1"),
        ("ntfy", "/sequence_id", "n1"),
    ];
    for (name, pointer, value) in threads {
        assert_eq!(
            looked_at(&second[name], &[], &[pointer])[1],
            value,
            "{name}"
        );
    }
    let key = |request: &Request| request.json()["thread"]["threadKey"].clone();
    assert_eq!(key(&second["google-chat"]), key(google));
    assert!(second["discord"].line.starts_with("POST "));
    for (name, said) in [
        ("slack", "Siti &lt;!here&gt; @channel"),
        ("mattermost", "Siti <!here> @\u{2060}channel"),
        ("telegram", "@\u{2060}channel"),
        ("google-chat", "Siti <\u{200b}!here>"),
    ] {
        let body = second[name].json().to_string();
        assert!(body.contains(said), "{name}: {body}");
    }
    drop(collector);
}

#[tokio::test]
async fn an_end_says_how_long_it_lasted_and_discord_writes_it_over_the_beginning() {
    let token = token();
    let (hooks, config) = servers(token.path());
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let target = listener.local_addr().expect("is bound");
    drop(listener);
    let collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", target);
    for hook in hooks.values() {
        message(hook, 1).await;
    }
    // Somebody deletes what was said.
    let gone = r#"{"id":"api.post.create_post.root_id.app_error","message":"Invalid RootId","status_code":400}"#;
    hooks["mattermost"].answer(&[Answer::of(400, gone)]);
    hooks["discord"].answer(&[Answer::of(
        404,
        r#"{"code":10008,"message":"Unknown Message"}"#,
    )]);
    let _listener = TcpListener::bind(target).expect("listens");
    let end = message(&hooks["discord"], 2).await;
    assert_eq!(end.line, "PATCH /api/webhooks/1/rahasia/messages/55");
    let content = end.json()["content"].clone();
    let content = content.as_str().expect("text");
    assert!(
        content.starts_with("🟢 Cipocok Jaya: pulih ") && content.contains(" setelah "),
        "{content}"
    );
    let again = message(&hooks["discord"], 3).await;
    assert_eq!(again.line, "POST /api/webhooks/1/rahasia?wait=true");
    assert_eq!(again.json()["content"], end.json()["content"]);
    // Where the first message is gone the end stands alone.
    let alone = message(&hooks["mattermost"], 3).await.json();
    assert_eq!(alone["root_id"], "");
    let under = message(&hooks["slack"], 2).await.json();
    assert_eq!(
        (&under["thread_ts"], &under["reply_broadcast"]),
        (&json!("1417671948.000006"), &json!(true))
    );
}

/// A chat, what it says when it may work the next time, what when it never will, and what of that is shown.
type Refusal = (
    &'static str,
    (u16, &'static str),
    (u16, &'static str),
    &'static str,
);

const REFUSALS: [Refusal; 12] = [
    (
        "telegram",
        (
            400,
            r#"{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}"#,
        ),
        (
            400,
            r#"{"ok":false,"error_code":400,"description":"Bad Request: message is too long 12:rahasia-sekali"}"#,
        ),
        "message is too long …",
    ),
    (
        "whatsapp",
        (
            400,
            r#"{"error":{"message":"(#130429) Rate limit hit","type":"OAuthException","code":130429}}"#,
        ),
        (
            400,
            r#"{"error":{"message":"Invalid parameter","code":100}}"#,
        ),
        "Invalid parameter",
    ),
    (
        "whatsapp-text",
        (
            401,
            r#"{"error":{"message":"Error validating access token","code":190}}"#,
        ),
        (
            400,
            r#"{"error":{"message":"Re-engagement message","code":131047}}"#,
        ),
        "Re-engagement message",
    ),
    (
        "slack",
        (200, r#"{"ok":false,"error":"ratelimited"}"#),
        (200, r#"{"ok":false,"error":"msg_too_long"}"#),
        "msg_too_long",
    ),
    (
        "slack-hook",
        (503, "<html>"),
        (400, "invalid_payload"),
        "invalid_payload",
    ),
    (
        "mattermost",
        (429, "limit exceeded"),
        (
            400,
            r#"{"id":"model.post.is_valid.message_length.app_error","message":"too long","status_code":400}"#,
        ),
        "too long",
    ),
    (
        "rocketchat",
        (
            429,
            r#"{"success":false,"error":"Error, too many requests. [error-too-many-requests]"}"#,
        ),
        (
            400,
            r#"{"success":false,"error":"must NOT have additional properties","errorType":"invalid-params"}"#,
        ),
        "invalid-params",
    ),
    (
        "discord",
        (
            429,
            r#"{"message":"You are being rate limited.","retry_after":0.65,"global":false}"#,
        ),
        (
            400,
            r#"{"code":50035,"message":"Invalid Form Body: rahasia"}"#,
        ),
        "Invalid Form Body: …",
    ),
    (
        "teams",
        (429, ""),
        (400, r#"{"error":{"code":"TriggerInputSchemaMismatch"}}"#),
        "TriggerInputSchemaMismatch",
    ),
    (
        "google-chat",
        (
            429,
            r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}"#,
        ),
        (400, r#"{"error":{"code":400,"status":"INVALID_ARGUMENT"}}"#),
        "INVALID_ARGUMENT",
    ),
    (
        "ntfy",
        (429, r#"{"code":42901,"http":429,"error":"limit reached"}"#),
        (
            413,
            r#"{"code":41303,"http":413,"error":"request too large"}"#,
        ),
        "request too large",
    ),
    (
        "fonnte",
        (
            200,
            r#"{"status":false,"reason":"request invalid on disconnected device 12:rahasia-sekali"}"#,
        ),
        (422, r#"{"status":false,"reason":"target invalid"}"#),
        "target invalid",
    ),
];

#[tokio::test]
async fn what_a_chat_refuses_is_sent_again_or_shown_as_it_means_it() {
    let token = token();
    let (hooks, config) = servers(token.path());
    let collector = Collector::start(&config).await;
    for (name, passes, never, _) in REFUSALS {
        let (passes, never) = (Answer::of(passes.0, passes.1), Answer::of(never.0, never.1));
        hooks[name].answer(&[passes, never]);
    }
    // One that says nothing, and one that is cut off.
    hooks["matrix"].answer(&[
        Answer::Hang,
        Answer::Status(
            429,
            "retry-after: 1\r\n",
            r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":400}"#.to_owned(),
        ),
    ]);
    hooks["waha"].answer(&[Answer::Cut]);
    let _agent = agent(&collector, "a-1", nowhere());
    let dead = || async {
        let all = collector.json("/api/v1/messages").await;
        let all = all.as_array().expect("a list").clone();
        let dead: Vec<Value> = all
            .into_iter()
            .filter(|one| one["dead_ms"].is_i64())
            .collect();
        (dead.len() == REFUSALS.len()).then_some(dead)
    };
    let dead = eventually("what is refused is dead", WITHIN, dead).await;
    for (name, _, _, text) in REFUSALS {
        let one = dead
            .iter()
            .find(|one| one["receiver"] == name)
            .expect("is dead");
        let error = one["error"].as_str().expect("text");
        assert!(
            error.contains(text) && !error.contains("rahasia"),
            "{name}: {error}"
        );
        assert_eq!(one["attempts"], 2, "{name}");
        // The same, each time.
        let all = hooks[name].taken();
        assert_eq!(all[0].body, all[1].body, "{name}");
        let resent = collector.ctl(&["message", "resend", &one["number"].to_string()]);
        assert!(resent.status.success(), "{}", said(&resent));
    }
    // The same transaction is the same message.
    let third = message(&hooks["matrix"], 3).await;
    assert_eq!(third.line, hooks["matrix"].taken()[0].line);
    assert_eq!(
        message(&hooks["waha"], 2).await.body,
        hooks["waha"].taken()[0].body
    );
    let empty = || async { (collector.json("/api/v1/messages").await == json!([])).then_some(()) };
    eventually("all arrived", WITHIN, empty).await;
    let log = collector.log();
    assert!(!log.contains("rahasia"), "{log}");
    for (name, hook) in &hooks {
        assert!(hook.taken().len() <= 3, "{name}");
    }
}

#[tokio::test]
async fn a_telegram_group_that_grew_is_followed() {
    let token = token();
    let (hooks, config) = servers(token.path());
    let hook = &hooks["telegram"];
    let busy = r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 1","parameters":{"retry_after":1}}"#;
    hook.answer(&[Answer::of(429, busy)]);
    hook.answer(&[Answer::of(400, r#"{"ok":false,"error_code":400,"description":"Bad Request: group chat was upgraded to a supergroup chat","parameters":{"migrate_to_chat_id":-1009}}"#)]);
    let collector = Collector::start(&config).await;
    let _agent = agent(&collector, "a-1", nowhere());
    let third = message(hook, 3).await;
    assert_eq!(third.json()["chat_id"], -1009);
    // From then on it goes there.
    act(&collector, "acknowledge", json!({"by": "Siti"})).await;
    assert_eq!(message(hook, 4).await.json()["chat_id"], -1009);
    let warned = || async {
        collector
            .log()
            .contains("write its number as `chat`")
            .then_some(())
    };
    eventually("the operator is told", Duration::from_secs(5), warned).await;
}
