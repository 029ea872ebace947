//! Offices that people register while the collector runs: by a file, the API and the page; what changes holds at once, and stays.

use crate::join::{collector, connected, join};
use crate::page::{picture, shows};
use denyut_tests::browser::{Browser, Screen};
use denyut_tests::{Agent, Collector, eventually, said};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(30);

const TABLE: &str = "code,name,regency,isp,latitude,longitude,hours\n\
    36.73.03,Kasemen,Kota Serang,telkom,-6.05,106.16,Mon-Sun 00:00-24:00\n\
    36.73.04,Taktakan,Kota Serang,,,,\n";

async fn put(collector: &Collector, code: &str, body: &Value) -> (StatusCode, Value) {
    let path = format!("/api/v1/registrations/{code}");
    let request = collector.request(Method::PUT, &path).json(body);
    let answer = request.send().await.expect("answers");
    let status = answer.status();
    (status, answer.json().await.unwrap_or_default())
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "the whole story of an office")]
async fn an_office_is_registered_watched_changed_and_taken_away() {
    let mut collector = collector("").await;
    let file = collector.dir.path().join("offices.csv");
    std::fs::write(&file, TABLE).expect("writes");
    let import = |more: &[&str]| {
        let path = file.to_str().expect("text");
        collector.ctl(&[&["office", "import", path], more].concat())
    };
    // A look at it, and then the deed; twice is once.
    let looked = import(&["--dry-run"]);
    assert!(
        said(&looked).contains("2 added, 0 changed, 0 as they were (nothing was done)"),
        "{}",
        said(&looked)
    );
    assert_eq!(collector.json("/api/v1/registrations").await, json!([]));
    assert!(said(&import(&[])).contains("2 added, 0 changed, 0 as they were"));
    assert!(said(&import(&[])).contains("0 added, 0 changed, 2 as they were"));
    let office = collector.json("/api/v1/offices/36.73.03").await;
    assert_eq!(
        (&office["name"], &office["isp"], &office["place"]),
        (&"Kasemen".into(), &"telkom".into(), &json!([-6.05, 106.16]))
    );

    // A machine joins it, is told what to probe, and what is wrong there is seen.
    let targets = json!([{"name": "server", "role": "server", "probe": "tcp://127.0.0.1:1", "interval": "1s"}]);
    let mut wish = json!({"code": "36.73.03", "name": "Kasemen", "regency": "Kota Serang", "targets": targets});
    let (status, done) = put(&collector, "36.73.03", &wish).await;
    assert_eq!(
        (status, &done["changed"]),
        (StatusCode::OK, &1.into()),
        "{done}"
    );
    let agent = Agent::start(
        None,
        "heartbeat = \"1s\"\n[collector]\nreconnect_max = \"1s\"",
    );
    let made = collector.ctl(&["invitation", "create", "--office", "36.73.03"]);
    let line = said(&made);
    let invitation = line.split('\'').nth(1).unwrap_or_else(|| panic!("{line}"));
    let invitation = invitation.parse().expect("an invitation");
    let joined = join(&agent, &invitation, &[]);
    assert!(joined.status.success(), "{}", said(&joined));
    let id = connected(&agent, true).await["agent"]
        .as_str()
        .expect("a name")
        .to_owned();
    let incident = |number: usize| {
        let collector = &collector;
        move || async move {
            let all = collector.json("/api/v1/incidents?office=36.73.03").await;
            all.as_array()
                .filter(|all| all.len() == number)
                .map(|all| all[0].clone())
        }
    };
    let found = eventually("the server's outage is found", WITHIN, incident(1)).await;
    assert_eq!(found["cause"], "server");
    // Other targets are told to the agent at once; the link that is probed no more ends the trouble.
    wish["targets"] = json!([{"name": "api", "role": "server", "probe": format!("tcp://{}", collector.api), "interval": "1s"}]);
    assert_eq!(put(&collector, "36.73.03", &wish).await.0, 200);
    let probes = || async {
        let office = collector.json("/api/v1/offices/36.73.03").await;
        let links = office["links"].as_array()?.clone();
        (links.len() == 1 && links[0]["target"] == "api" && links[0]["state"] == "up").then_some(())
    };
    eventually("the agent probes what it is told now", WITHIN, probes).await;
    let over = || async {
        let all = collector.json("/api/v1/incidents?office=36.73.03").await;
        (!all[0]["resolved_ms"].is_null()).then_some(())
    };
    eventually("the trouble is over", WITHIN, over).await;

    // An office with agents stays; what the configuration has is changed there.
    let remove = |code: &'static str| collector.ctl(&["office", "remove", code]);
    assert!(
        said(&remove("36.73.03")).contains("revoke them first"),
        "{}",
        said(&remove("36.73.03"))
    );
    assert!(said(&remove("36.73.02")).contains("stands in the configuration"));
    assert!(said(&remove("36.73.99")).contains("no office 36.73.99 is registered here"));
    let mut fixed = wish.clone();
    fixed["code"] = "36.73.02".into();
    assert_eq!(put(&collector, "36.73.02", &fixed).await.0, 409);
    // All of it stays over a restart.
    collector.kill();
    collector.launch().await;
    connected(&agent, true).await;
    let office = collector.json("/api/v1/offices/36.73.03").await;
    assert_eq!(
        (&office["agents"][0]["agent"], &office["links"][0]["target"]),
        (&id.as_str().into(), &"api".into())
    );
    assert!(
        collector
            .ctl(&["office", "remove", "36.73.04"])
            .status
            .success()
    );
    let gone = collector
        .request(Method::GET, "/api/v1/offices/36.73.04")
        .send();
    assert_eq!(gone.await.expect("answers").status(), 404);
    // A machine that is shut out holds its office no more.
    let out = collector.request(Method::POST, &format!("/pengaturan/mesin/{id}/cabut"));
    let page = out
        .send()
        .await
        .expect("answers")
        .text()
        .await
        .expect("reads");
    assert!(
        page.contains("id=\"machines\"") && !page.contains(&id),
        "{page}"
    );
    let removed = collector.ctl(&["office", "remove", "36.73.03"]);
    assert!(removed.status.success(), "{}", said(&removed));
}

#[tokio::test]
async fn what_is_wrong_of_a_file_is_named_and_nothing_is_done() {
    let collector = collector("").await;
    let file = collector.dir.path().join("offices.csv");
    for (table, wrong) in [
        (
            "code,name\n36.73.03,Kasemen\n36.73.3,Taktakan\n",
            "`offices[1].code` = `36.73.3`",
        ),
        (
            "code,name\n36.73.03,Kasemen\n\n\n36.73.04,\n",
            "line 5: `name` is missing",
        ),
        (
            "code,name\n36.73.03,Kasemen\n36.73.03,Taktakan\n",
            "it is there twice",
        ),
        (
            "code,name\n36.73.02,Cipocok\n",
            "stands in the configuration",
        ),
        (
            "code,name,hours\n36.73.03,Kasemen,always open\n",
            "`offices[0].hours`",
        ),
        (
            "code,name,latitude\n36.73.03,Kasemen,\"6,1\"\n",
            "line 2: `latitude` = `6,1`",
        ),
        (
            "code,name,latitude\n36.73.03,Kasemen,-6.1\n",
            "only one of the two is set",
        ),
        (
            "code,nama\n36.73.03,Kasemen\n",
            "the column `nama` is not known",
        ),
        ("code,name\n,Kasemen\n", "line 2: `code` is missing"),
        (
            "code,name,agents\n36.73.03,Kasemen,\n",
            "machines of registered offices come by invitation",
        ),
        ("code,name\n", "none"),
    ] {
        std::fs::write(&file, table).expect("writes");
        let output = collector.ctl(&["office", "import", file.to_str().expect("text")]);
        assert!(
            !output.status.success() && said(&output).contains(wrong),
            "{table}: {}",
            said(&output)
        );
    }
    assert_eq!(collector.json("/api/v1/registrations").await, json!([]));
    // A nation at once fits.
    let nation: String = (0..30_000).fold("code,name\n".to_owned(), |text, n| {
        format!(
            "{text}{}.{:02}.{:02}.{:04},Desa yang namanya cukup panjang {n}\n",
            11 + n / 10_000,
            1 + n / 100 % 99,
            1 + n % 99,
            1_000 + n % 9_000
        )
    });
    std::fs::write(&file, nation).expect("writes");
    let output = collector.ctl(&[
        "office",
        "import",
        file.to_str().expect("text"),
        "--dry-run",
    ]);
    assert!(said(&output).contains("30000 added"), "{}", said(&output));
}

#[tokio::test]
async fn what_is_no_name_and_whose_an_office_is_not_is_refused() {
    let collector = collector("").await;
    // What feeds and badges cannot say, or what looks like another name, is none.
    for name in ["Kec. \u{ffff}", "\u{202e}kopiC", "\u{200b}", "…"] {
        let (status, problem) = put(
            &collector,
            "36.73.05",
            &json!({"code": "36.73.05", "name": name}),
        )
        .await;
        assert_eq!(
            (status.as_u16(), &problem["field"]),
            (400, &"office.name".into()),
            "{problem}"
        );
    }
    // A table for the page is a table for the collector: its lines are counted alike, and agents come by invitation.
    for (table, wrong) in [
        (
            "code,name\n36.73.03,Kasemen\n36.73.3,Taktakan\n",
            "baris 3, Kode kantor “36.73.3”",
        ),
        (
            "code,name,agents\n36.73.03,Kasemen,nine\n",
            "hapus kolom itu",
        ),
    ] {
        let mut form = reqwest::Url::parse("http://x").expect("an address");
        form.query_pairs_mut()
            .extend_pairs([("csv", table), ("deed", "import")]);
        let form = collector
            .request(Method::POST, "/pengaturan/kantor/impor")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.query().expect("pairs").to_owned());
        let page = form
            .send()
            .await
            .expect("answers")
            .text()
            .await
            .expect("reads");
        assert!(page.contains(wrong), "{table}: {page}");
    }
    assert_eq!(collector.json("/api/v1/registrations").await, json!([]));
    let body = json!({"code": "36.73.05", "name": "x"});
    assert_eq!(put(&collector, "36.73.06", &body).await.0, 400);
    let others = collector.token_of(
        &["token", "create", "jakarta", "--region", "31"],
        &["--scope", "admin"],
    );
    let url = format!("http://{}/api/v1/registrations/36.73.05", collector.api);
    let foreign = reqwest::Client::new()
        .put(url)
        .bearer_auth(others)
        .json(&body);
    assert_eq!(foreign.send().await.expect("answers").status(), 403);
}

#[tokio::test]
async fn offices_are_registered_on_the_page() {
    let collector = collector("").await;
    let base = format!("http://{}", collector.api);
    for screen in [Screen::Laptop, Screen::Phone] {
        let name = format!("{screen:?}").to_lowercase();
        let browser = Browser::open(screen).await;
        browser.enter(&collector, "siti").await;
        browser
            .visit(&format!("{base}/pengaturan/kantor?code=36.73.05"))
            .await;
        shows(&browser, &["Kantor 36.73.05", "Target sendiri"]).await;
        browser.run("document.querySelector('main [name=name]').value = 'Walantaka'; document.querySelector('main [name=latitude]').value = 'utara'; document.querySelector('main form button').click()").await;
        shows(&browser, &["Lintang “utara”: bukan angka"]).await;
        assert_eq!(
            browser
                .run("return document.querySelector('main [name=name]').value")
                .await,
            "Walantaka",
            "what was right stays"
        );
        let wish = format!(
            "document.querySelector('main [name=name]').value = 'Walantaka {name}'; document.querySelector('main [name=targets]').value = '[{{\"name\": \"server\", \"role\": \"server\", \"probe\": \"tcp://10.36.73.2:443\"}}]'; document.querySelector('main form button').click()"
        );
        browser.run(&wish).await;
        shows(
            &browser,
            &[&format!("Walantaka {name}"), "Belum ada agen terdaftar"],
        )
        .await;
        browser
            .visit(&format!("{base}/pengaturan/kantor?code=36.73.05"))
            .await;
        shows(
            &browser,
            &["Yang diperiksa agennya", "tcp://10.36.73.2:443", "10 detik"],
        )
        .await;
        assert_eq!(
            browser.flaws().await.unwrap_or_default(),
            Vec::<String>::new()
        );
        assert!(browser.fits().await);
        browser
            .screenshot(&picture(&format!("register-{name}.png")))
            .await;
        browser
            .visit(&format!("{base}/pengaturan/kantor?code=36.73.02"))
            .await;
        shows(&browser, &["ada dalam konfigurasi kolektor"]).await;
        // Many at once, after a look.
        browser.visit(&format!("{base}/pengaturan")).await;
        let csv = format!(
            "document.querySelectorAll('details').forEach((one) => one.open = true); document.querySelector('[name=csv]').value = 'code,name\\n36.73.06,Curug {name}'; document.querySelector('[value=rehearse]').click()"
        );
        browser.run(&csv).await;
        shows(&browser, &["belum ada yang dilakukan"]).await;
        // What was looked at can be sent as it is.
        browser
            .run("document.querySelector('[value=import]').click()")
            .await;
        shows(&browser, &["tetap."]).await;
        // A machine is invited, and the invitation taken back.
        browser.visit(&format!("{base}/pengaturan")).await;
        browser.run("document.querySelector('[action=\"/pengaturan/undangan\"] [name=office]').value = '36.73.06'; document.querySelector('[action=\"/pengaturan/undangan\"] button').click()").await;
        shows(
            &browser,
            &[
                "denyut-agent join 'https://",
                "Undangan yang masih berlaku",
                "untuk 1 mesin",
            ],
        )
        .await;
        assert!(browser.fits().await);
        browser
            .screenshot(&picture(&format!("machines-{name}.png")))
            .await;
        browser
            .run("document.querySelector('[action^=\"/pengaturan/undangan/\"] button').click()")
            .await;
        let gone =
            || async { (collector.json("/api/v1/invitations").await == json!([])).then_some(()) };
        eventually("the invitation is taken back", WITHIN, gone).await;
        assert_eq!(
            collector.json("/api/v1/offices/36.73.06").await["name"],
            format!("Curug {name}")
        );
    }
}
