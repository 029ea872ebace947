//! Settings: who is told, who may come in, programs' tokens, machines that may join, and announced work.

use super::machines;
use super::reader::{Live, Reader, Said, Tab};
use super::words::{Exact, Words};
use crate::access::{
    NewToken, NewUser, Regions, Role, Scope, TokenView, UserChange, UserView, Welcomed,
};
use crate::api::{self, Problem, Shared};
use crate::register::Registered;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use denyut_detect::calendar::Zone;
use denyut_proto::Invalid;
use maud::{Markup, html};
use std::sync::Arc;

const ROLES: [(Role, &str); 3] = [
    (Role::Viewer, "viewer"),
    (Role::Operator, "operator"),
    (Role::Admin, "admin"),
];
/// Offices that are listed; the others are found by their code.
const SHOWN: usize = 50;
/// How long a token is good by the form; others by the API.
const GOOD_FOR: [(&str, i64); 3] = [("90days", 90), ("365days", 365), ("1825days", 1_825)];

/// What came of a form, told above the settings.
pub(super) enum Outcome {
    Nothing,
    /// It was done, and this is to be kept by whoever asked: it is shown once.
    Secret {
        key: &'static str,
        what: String,
        secret: String,
    },
    /// A receiver took a test, or did not.
    Tested {
        receiver: String,
        error: Option<String>,
    },
    /// Offices were registered, or would be.
    Imported {
        done: Registered,
        rehearsal: bool,
        csv: String,
    },
    /// A table of offices was not right.
    Unimported {
        problem: Problem,
        csv: String,
    },
    Problem(Problem),
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, reader: Reader) -> Response {
    page(&shared, &reader, &Outcome::Nothing)
}

fn page(shared: &Shared, reader: &Reader, outcome: &Outcome) -> Response {
    let written = tokio::task::block_in_place(|| write(shared, reader, outcome));
    written.unwrap_or_else(|error| Problem::from(error).into_response())
}

/// The page. Blocks.
fn write(shared: &Shared, reader: &Reader, outcome: &Outcome) -> anyhow::Result<Response> {
    let words = reader.words;
    let machines = if reader.caller.may(Scope::Admin) {
        machines::section(reader, shared)?
    } else {
        html! {}
    };
    let body = html! {
        h1 { (words.say("tab.settings")) }
        (told(words, outcome))
        @if reader.caller.may(Scope::Admin) { (offices(reader, shared, outcome)) }
        (receivers(reader, shared))
        (works(reader, shared))
        @if reader.caller.may(Scope::Admin) { (users(reader, shared)) }
        (machines)
        (tokens(reader, shared))
    };
    let title = words.say("tab.settings");
    let mut response = match outcome {
        Outcome::Problem(problem) | Outcome::Unimported { problem, .. } => {
            reader.refused(problem.status(), Tab::Settings, &title, &body)
        }
        _ => reader.page(Tab::Settings, &title, Live::Still, &body),
    };
    if let Outcome::Secret { .. } = outcome {
        let never = HeaderValue::from_static("no-store");
        response.headers_mut().insert(header::CACHE_CONTROL, never);
    }
    Ok(response)
}

fn told(words: Words, outcome: &Outcome) -> Markup {
    match outcome {
        Outcome::Nothing => html! {},
        Outcome::Secret { key, what, secret } => html! {
            div class="outcome" role="status" {
                p { (words.fill(key, &[("name", what)])) }
                pre { (secret) }
                p class="soft" { (words.say("settings.once")) }
            }
        },
        Outcome::Tested {
            receiver,
            error: None,
        } => html! {
            p class="outcome" role="status" { (words.fill("receiver.taken", &[("name", receiver)])) }
        },
        Outcome::Tested {
            receiver,
            error: Some(error),
        } => html! {
            p class="outcome problem" role="alert" { (words.fill("receiver.not_taken", &[("name", receiver), ("error", error)])) }
        },
        Outcome::Imported {
            done, rehearsal, ..
        } => {
            let counts = [done.added, done.changed, done.same].map(|count| count.to_string());
            let [added, changed, same] = &counts;
            let key = if *rehearsal {
                "register.would"
            } else {
                "register.done"
            };
            let gaps = [
                ("added", added.as_str()),
                ("changed", changed),
                ("same", same),
            ];
            html! { p class="outcome" role="status" { (words.fill(key, &gaps)) } }
        }
        Outcome::Problem(problem) | Outcome::Unimported { problem, .. } => {
            html! { p class="outcome problem" role="alert" { (words.problem(problem.detail())) } }
        }
    }
}

fn receivers(reader: &Reader, shared: &Shared) -> Markup {
    let words = reader.words;
    let seen = shared.alerts.receivers.iter();
    let mut seen: Vec<_> = seen
        .filter(|one| api::setup::sees(&reader.caller, one))
        .collect();
    seen.sort_by(|one, two| one.name.cmp(&two.name));
    html! {
        section aria-labelledby="receivers" {
            h2 id="receivers" { (words.say("receivers")) }
            @if seen.is_empty() { p class="soft" { (words.say("receivers.none")) } }
            @else {
                div class="scroll" tabindex="0" { table {
                    thead { tr { th scope="col" { (words.say("name")) } th scope="col" { (words.say("receiver.kind")) } th scope="col" { (words.say("regions")) } th scope="col" { (words.say("language")) } th { span class="hidden" { (words.say("receiver.test")) } } } }
                    tbody { @for one in seen { tr {
                        th scope="row" { (one.name) }
                        td { (one.channel.describe()) @if let Some(role) = &one.role { " · " (role) } }
                        td { @if one.regions.is_empty() { (words.say("regions.all")) } @else { (one.regions.join(", ")) } }
                        td { (one.language.code()) }
                        td { @if reader.caller.may(Scope::Operate) {
                            form method="post" action={ "/pengaturan/penerima/" (one.name) "/uji" } { button class="small" { (words.say("receiver.test")) } }
                        } }
                    } } }
                } }
            }
        }
    }
}

fn works(reader: &Reader, shared: &Shared) -> Markup {
    let words = reader.words;
    let all = shared.query.maintenance.iter();
    let coming = all
        .filter(|work| reader.caller.regions.touch(&work.region))
        .filter_map(|work| {
            let zone = Zone::of_region(&work.region);
            let (from, until) = work.when.next(reader.now, zone)?;
            Some((from, until, zone, work))
        });
    let mut coming: Vec<_> = coming.collect();
    coming.sort_by_key(|(from, ..)| *from);
    html! {
        section aria-labelledby="works" {
            h2 id="works" { (words.say("works")) }
            @if coming.is_empty() { p class="soft" { (words.say("works.none")) } }
            ul {
                @for (from, until, zone, work) in coming {
                    @let time = |at| words.time(at, reader.now, zone, Exact::Minute);
                    li { strong { (work.region) } " · " (time(from)) " – " (time(until)) ": " (work.reason) }
                }
            }
        }
    }
}

fn regions_text(words: Words, regions: &Regions) -> String {
    if regions.is_everywhere() {
        return words.say("regions.all");
    }
    regions.each().collect::<Vec<_>>().join(", ")
}

/// As a form writes them: codes with spaces or commas between them, or `all`.
fn read_regions(said: &Said) -> Result<Regions, Problem> {
    let text = said.need("regions")?;
    let all: Vec<&str> = text
        .split([',', ' ', ';'])
        .filter(|one| !one.is_empty())
        .collect();
    serde_json::from_value(serde_json::json!(all)).map_err(|_| {
        Invalid::new(
            "regions",
            text,
            "not regions",
            "write `all`, or codes like `36.73`",
        )
        .into()
    })
}

fn regions_field(regions: Option<&Regions>) -> String {
    regions.map_or_else(String::new, |regions| {
        if regions.is_everywhere() {
            "all".to_owned()
        } else {
            regions.each().collect::<Vec<_>>().join(" ")
        }
    })
}

fn role_field(words: Words, chosen: Role) -> Markup {
    html! {
        label { span { (words.say("user.role")) } select name="role" {
            @for (role, name) in ROLES { option value=(name) selected[role == chosen] { (words.of("user_role", name)) } }
        } }
    }
}

fn users(reader: &Reader, shared: &Shared) -> Markup {
    let words = reader.words;
    let all = shared.book.users(&reader.caller.regions, reader.now);
    // Whoever sees everything says what others see: nothing is easier given than noticed.
    let own = Some(&reader.caller.regions).filter(|regions| !regions.is_everywhere());
    let own_regions = regions_field(own);
    html! {
        section aria-labelledby="users" {
            h2 id="users" { (words.say("users")) }
            @for user in &all { (user_card(reader, user)) }
            details {
                summary { (words.say("user.add")) }
                form method="post" action="/pengaturan/pengguna" class="fields" {
                    label { span { (words.say("login.name")) } input name="name" required maxlength="40" autocapitalize="none" autocomplete="off" spellcheck="false"; }
                    label { span { (words.say("user.full_name")) } input name="full_name" maxlength="100" autocomplete="off"; }
                    (role_field(words, Role::Viewer))
                    label { span { (words.say("regions")) } input name="regions" required placeholder="11.01" value=(own_regions) autocomplete="off"; }
                    button { (words.say("user.add")) }
                }
            }
        }
    }
}

fn user_card(reader: &Reader, user: &UserView) -> Markup {
    let words = reader.words;
    let to = |what: &str| format!("/pengaturan/pengguna/{}/{what}", user.name);
    let role = ROLES.iter().find(|(role, _)| *role == user.role);
    let role = role.map_or("", |(_, name)| name);
    html! {
        details class="user" {
            summary {
                strong { (user.name) } @if let Some(name) = &user.full_name { " · " (name) }
                " · " (words.of("user_role", role)) " · " (regions_text(words, &user.regions))
                @if user.disabled { " " span class="badge" { (words.say("user.disabled")) } }
                @if !user.has_password { " " span class="badge" { (words.say("user.waits")) } }
            }
            form method="post" action=(to("ubah")) class="fields" {
                label { span { (words.say("user.full_name")) } input name="full_name" maxlength="100" value=(user.full_name.as_deref().unwrap_or_default()) autocomplete="off"; }
                (role_field(words, user.role))
                label { span { (words.say("regions")) } input name="regions" required value=(regions_field(Some(&user.regions))) autocomplete="off"; }
                button { (words.say("save")) }
            }
            div class="deeds" {
                form method="post" action=(to("tautan")) { button class="small" { (words.say("user.link")) } }
                form method="post" action=(to("ubah")) {
                    input type="hidden" name="disabled" value=(if user.disabled { "no" } else { "yes" });
                    button class="small" { (words.say(if user.disabled { "user.enable" } else { "user.disable" })) }
                }
                (sure(&to("hapus"), &words.say("user.remove"), &words.fill("remove.sure", &[("name", &user.name)])))
            }
        }
    }
}

fn offices(reader: &Reader, shared: &Shared, outcome: &Outcome) -> Markup {
    let words = reader.words;
    let registry = shared.query.registry.offices();
    let seen: Vec<_> = registry
        .iter()
        .filter(|(code, _)| reader.caller.regions.has(code))
        .collect();
    // What was not done yet can be sent again as it is.
    let csv = match outcome {
        Outcome::Imported {
            rehearsal: true,
            csv,
            ..
        }
        | Outcome::Unimported { csv, .. } => csv.as_str(),
        _ => "",
    };
    html! {
        section aria-labelledby="offices" {
            h2 id="offices" { (words.say("offices")) }
            p class="soft" { (words.say("register.about")) }
            details {
                summary { (words.fill("offices.count", &[("count", &seen.len().to_string())])) }
                ul class="plain" { @for (code, office) in seen.iter().take(SHOWN) { li { a href={ "/pengaturan/kantor?code=" (code) } { (code) " " (office.name) } } } }
                @if seen.len() > SHOWN { p class="soft" { (words.fill("offices.more", &[("count", &(seen.len() - SHOWN).to_string())])) } }
            }
            form method="get" action="/pengaturan/kantor" class="fields" {
                label { span { (words.say("office_code")) } input name="code" required placeholder="11.01.01" inputmode="decimal" autocomplete="off"; }
                button { (words.say("register.open")) }
            }
            details open[!csv.is_empty()] {
                summary { (words.say("register.import")) }
                form method="post" action="/pengaturan/kantor/impor" class="fields" {
                    label class="wide" { span { (words.say("register.csv")) } textarea name="csv" rows="6" required placeholder="code,name,regency,isp,pop,pool,latitude,longitude,hours" { "\n" (csv) } }
                    div class="deeds" {
                        button name="deed" value="rehearse" { (words.say("register.rehearse")) }
                        button name="deed" value="import" { (words.say("register.do")) }
                    }
                }
            }
        }
    }
}

/// Takes an office away.
pub(super) async fn remove_office(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let caller = reader.caller.clone();
    let removed =
        api::registrations::remove(State(Arc::clone(&shared)), caller, api::Path(code)).await;
    Ok(done(&shared, &reader, removed.map(|_| ()), "offices"))
}

/// Registers the offices of a table.
pub(super) async fn import_offices(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
    said: Said,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let import = async {
        let text = said.need("csv")?;
        let offices = crate::sites::parse(text.as_bytes()).map_err(|error| {
            Problem::from(Invalid::new(
                "csv",
                "…",
                format!("{error:#}"),
                "mend that line, and send all of it again",
            ))
        })?;
        if let Some((line, office)) = offices.iter().find(|(_, office)| !office.agents.is_empty()) {
            let field = format!("line {line}.agents");
            let fix = "leave the column out: machines are let in by an invitation";
            return Err(
                Invalid::new(field, office.agents.join(" "), "not of this import", fix).into(),
            );
        }
        let offices = offices
            .into_iter()
            .map(|(line, office)| (format!("line {line}"), office.into()))
            .collect();
        let rehearsal = said.get("deed") != Some("import");
        let caller = reader.caller.clone();
        let Json(done) =
            api::registrations::put_all(Arc::clone(&shared), caller, offices, rehearsal).await?;
        Ok((done, rehearsal))
    };
    let csv = said.get("csv").unwrap_or_default().to_owned();
    let told = match import.await {
        Ok((done, rehearsal)) => Outcome::Imported {
            done,
            rehearsal,
            csv,
        },
        Err(problem) => Outcome::Unimported { problem, csv },
    };
    Ok(outcome(&shared, &reader, Ok(told)))
}

/// What cannot be taken back is asked for twice.
pub(super) fn sure(action: &str, what: &str, really: &str) -> Markup {
    html! {
        details class="sure" {
            summary { (what) }
            form method="post" action=(action) { button class="small danger" { (really) } }
        }
    }
}

fn tokens(reader: &Reader, shared: &Shared) -> Markup {
    let words = reader.words;
    let all = shared.book.tokens(&reader.caller);
    html! {
        section aria-labelledby="tokens" {
            h2 id="tokens" { (words.say("tokens")) }
            p class="soft" { (words.say("tokens.about")) }
            @if !all.is_empty() {
                div class="scroll" tabindex="0" { table {
                    thead { tr { th scope="col" { (words.say("name")) } th scope="col" { (words.say("token.scopes")) } th scope="col" { (words.say("regions")) } th scope="col" { (words.say("token.until")) } th { span class="hidden" { (words.say("token.remove")) } } } }
                    tbody { @for token in &all { (token_row(reader, token)) } }
                } }
            }
            details {
                summary { (words.say("token.add")) }
                form method="post" action="/pengaturan/token" class="fields" {
                    label { span { (words.say("name")) } input name="name" required maxlength="40" placeholder="grafana" autocapitalize="none" autocomplete="off" spellcheck="false"; }
                    label { span { (words.say("token.scopes")) } select name="scope" {
                        @for scope in &reader.caller.scopes { option value=(scope.as_str()) { (words.of("scope_name", scope.as_str())) } }
                    } }
                    label { span { (words.say("token.for")) } select name="expires" {
                        @for (value, days) in GOOD_FOR { option value=(value) { (words.fill("unit.day", &[("n", &days.to_string())])) } }
                    } }
                    button { (words.say("token.add")) }
                }
            }
        }
    }
}

fn token_row(reader: &Reader, token: &TokenView) -> Markup {
    let words = reader.words;
    let scopes = token.scopes.iter();
    let scopes = scopes.map(|scope| words.of("scope_name", scope.as_str()));
    html! {
        tr {
            th scope="row" { (token.name) @if let Some(user) = &token.user { " " small { (user) } } }
            td { (scopes.collect::<Vec<_>>().join(", ")) }
            td { (regions_text(words, &token.regions)) }
            td { (words.day(token.expires_ms, Zone::Wib)) }
            td { (sure(&format!("/pengaturan/token/{}/hapus", token.name), &words.say("token.remove"), &words.fill("remove.sure", &[("name", &token.name)]))) }
        }
    }
}

/// Shows what was wrong above the settings, or goes back to them.
pub(super) fn done(
    shared: &Shared,
    reader: &Reader,
    what: Result<(), Problem>,
    to: &str,
) -> Response {
    match what {
        Ok(()) => Redirect::to(&format!("/pengaturan#{to}")).into_response(),
        Err(problem) => page(shared, reader, &Outcome::Problem(problem)),
    }
}

/// Shows what came of it.
pub(super) fn outcome(
    shared: &Shared,
    reader: &Reader,
    what: Result<Outcome, Problem>,
) -> Response {
    page(shared, reader, &what.unwrap_or_else(Outcome::Problem))
}

/// Sends a receiver a test.
pub(super) async fn test(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Operate)?;
    let caller = reader.caller.clone();
    let tested =
        api::setup::test(State(Arc::clone(&shared)), caller, api::Path(name.clone())).await;
    let told = tested.map(|Json(tested)| Outcome::Tested {
        receiver: name,
        error: tested.error,
    });
    Ok(outcome(&shared, &reader, told))
}

fn role_of(said: &Said) -> Result<Option<Role>, Problem> {
    let Some(name) = said.get("role") else {
        return Ok(None);
    };
    let role = ROLES
        .iter()
        .find(|(_, of)| *of == name)
        .map(|(role, _)| *role);
    let role = role.ok_or_else(|| {
        Invalid::new(
            "role",
            name.escape_debug(),
            "no role",
            "choose one of the form",
        )
    })?;
    Ok(Some(role))
}

fn welcomed(made: api::Made<Welcomed>) -> Outcome {
    let (_, _, Json(welcomed)) = made;
    Outcome::Secret {
        key: "user.welcome",
        what: welcomed.user.name,
        secret: welcomed.link,
    }
}

/// Lets somebody in.
pub(super) async fn add_user(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
    said: Said,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let add = async {
        let new = NewUser {
            name: said.need("name")?,
            full_name: said.get("full_name").map(str::to_owned),
            role: role_of(&said)?.unwrap_or(Role::Viewer),
            regions: read_regions(&said)?,
        };
        let caller = reader.caller.clone();
        api::users::add(State(Arc::clone(&shared)), caller, api::Body(new)).await
    };
    let made = add.await.map(welcomed);
    Ok(outcome(&shared, &reader, made))
}

/// Changes what a user may.
pub(super) async fn change_user(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    reader: Reader,
    said: Said,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let change = async {
        let change = if let Some(disabled) = said.get("disabled") {
            UserChange {
                disabled: Some(disabled == "yes"),
                ..UserChange::default()
            }
        } else {
            UserChange {
                full_name: Some(said.get("full_name").unwrap_or_default().to_owned()),
                role: role_of(&said)?,
                regions: Some(read_regions(&said)?),
                disabled: None,
            }
        };
        let caller = reader.caller.clone();
        api::users::change(
            State(Arc::clone(&shared)),
            caller,
            api::Path(name),
            api::Body(change),
        )
        .await
    };
    let changed = change.await.map(|_| ());
    Ok(done(&shared, &reader, changed, "users"))
}

/// Makes a user a new link.
pub(super) async fn welcome_user(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let caller = reader.caller.clone();
    let made = api::users::welcome(State(Arc::clone(&shared)), caller, api::Path(name)).await;
    Ok(outcome(&shared, &reader, made.map(welcomed)))
}

/// Removes a user.
pub(super) async fn remove_user(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let caller = reader.caller.clone();
    let removed = api::users::remove(State(Arc::clone(&shared)), caller, api::Path(name)).await;
    Ok(done(&shared, &reader, removed.map(|_| ()), "users"))
}

/// Makes a token.
pub(super) async fn add_token(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
    said: Said,
) -> Result<Response, Problem> {
    let add = async {
        let wanted = said.need("scope")?;
        let scope = reader
            .caller
            .scopes
            .iter()
            .find(|scope| scope.as_str() == wanted);
        let scope = scope.ok_or_else(|| {
            Invalid::new(
                "scope",
                wanted.escape_debug(),
                "no scope of yours",
                "choose one of the form",
            )
        })?;
        let new = NewToken {
            name: said.need("name")?,
            scopes: vec![*scope],
            regions: None,
            expires: said.get("expires").map(str::to_owned),
        };
        let caller = reader.caller.clone();
        api::users::add_token(State(Arc::clone(&shared)), caller, api::Body(new)).await
    };
    let made = add.await.map(|(_, _, Json(token))| Outcome::Secret {
        key: "token.made",
        what: token.name,
        secret: token.token.unwrap_or_default(),
    });
    Ok(outcome(&shared, &reader, made))
}

/// Takes a token away.
pub(super) async fn remove_token(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    let caller = reader.caller.clone();
    let removed =
        api::users::remove_token(State(Arc::clone(&shared)), caller, api::Path(name)).await;
    Ok(done(&shared, &reader, removed.map(|_| ()), "tokens"))
}
