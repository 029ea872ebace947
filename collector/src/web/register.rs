//! One office as somebody registers it: a form, and what its agents probe.

use super::reader::{Live, Reader, Said, Tab};
use super::settings::sure;
use crate::access::{Regions, Scope};
use crate::api::{self, Problem, Shared};
use crate::register::Registration;
use anyhow::Context;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use denyut_proto::{Invalid, OfficeCode};
use maud::{Markup, html};
use std::sync::Arc;

/// An office as somebody registers it: what there is of it, or an empty form.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let asked = reader.asked();
    let code: OfficeCode = asked.get("code").map_or("", |code| code).parse()?;
    if !reader.caller.regions.has(&code) {
        return Err(Problem::not_found(format!("there is no office {code}")));
    }
    page(shared, reader, code, None).await
}

async fn page(
    shared: Arc<Shared>,
    reader: Reader,
    code: OfficeCode,
    said: Option<(Registration, Problem)>,
) -> Result<Response, Problem> {
    let work = move || {
        let known = shared.register.list(&Regions::one(code.to_string()))?;
        let known = known.into_iter().find(|one| one.code == code.as_str());
        let status = said.as_ref().map(|(_, problem)| problem.status());
        let body = form(&reader, &shared, &code, known, said)?;
        let title = reader.words.say("register.title");
        Ok::<_, anyhow::Error>(match status {
            Some(status) => reader.refused(status, Tab::Settings, &title, &body),
            None => reader.page(Tab::Settings, &title, Live::Still, &body),
        })
    };
    Ok(tokio::task::spawn_blocking(work)
        .await
        .context("a page panicked")??)
}

fn form(
    reader: &Reader,
    shared: &Shared,
    code: &OfficeCode,
    known: Option<Registration>,
    said: Option<(Registration, Problem)>,
) -> anyhow::Result<Markup> {
    let words = reader.words;
    let is_fixed = shared.register.is_fixed(code);
    let is_there = known.is_some();
    let probed = shared.query.registry.office(code);
    let (shown, problem) = match said {
        Some((said, problem)) => (Some(said), Some(problem)),
        None => (known, None),
    };
    let text = |value: fn(&Registration) -> Option<String>| {
        shown.as_ref().and_then(value).unwrap_or_default()
    };
    let targets = match &shown {
        Some(one) if !one.targets.is_empty() => serde_json::to_string_pretty(&one.targets)?,
        _ => String::new(),
    };
    let fields: [(&str, &str, String); 8] = [
        ("name", "name", text(|one| Some(one.name.clone()))),
        ("regency", "by.regency", text(|one| one.regency.clone())),
        ("isp", "isp", text(|one| one.isp.clone())),
        ("pop", "register.pop", text(|one| one.pop.clone())),
        ("pool", "register.pool", text(|one| one.pool.clone())),
        (
            "latitude",
            "register.latitude",
            text(|one| one.latitude.map(|value| value.to_string())),
        ),
        (
            "longitude",
            "register.longitude",
            text(|one| one.longitude.map(|value| value.to_string())),
        ),
        ("hours", "opening", text(|one| one.hours.clone())),
    ];
    Ok(html! {
        p class="trail" { a href="/pengaturan#offices" { (words.say("tab.settings")) } @if shared.query.registry.has(code) { " › " a href={ "/kantor/" (code) } { (code) } } }
        h1 { (words.say("register.title")) " " (code) }
        @if let Some(problem) = &problem { p class="outcome problem" role="alert" { (words.problem(problem.detail())) } }
        @if is_fixed { p class="warning" { (words.say("register.fixed")) } }
        @else {
            form method="post" action={ "/pengaturan/kantor/" (code) } class="fields" {
                @for (field, key, value) in &fields {
                    label { span { (words.say(key)) } input name=(field) value=(value) required[*field == "name"] maxlength="100" autocomplete="off"; }
                }
                label class="wide" { span { (words.say("register.targets")) } textarea name="targets" rows="6" spellcheck="false" placeholder=r#"[{"name": "server", "role": "server", "probe": "tcp://10.36.73.2:443"}]"# { (targets) } }
                button { (words.say("save")) }
            }
            @if is_there { (sure(&format!("/pengaturan/kantor/{code}/hapus"), &words.say("user.remove"), &words.fill("remove.sure", &[("name", code.as_str())]))) }
        }
        @if let Some(office) = &probed {
            section aria-labelledby="probed" {
                h2 id="probed" { (words.say("register.probed")) }
                @if office.targets.is_empty() { p class="soft" { (words.say("register.none")) } }
                @else { div class="scroll" tabindex="0" { table {
                    thead { tr { th scope="col" { (words.say("name")) } th scope="col" { (words.say("user.role")) } th scope="col" { (words.say("register.probe")) } th scope="col" { (words.say("register.every")) } } }
                    tbody { @for target in &office.targets { tr { th scope="row" { (target.name) } td { (words.of("role", target.role.as_str())) } td { (target.probe) } td { (words.length(target.interval)) } } } }
                } } }
            }
        }
    })
}

/// An office as a form says it; with what is wrong of it, and is left out.
fn registration_of(code: &str, said: &Said) -> (Registration, Option<Problem>) {
    let mut problem: Option<Problem> = None;
    let text = |name: &str| said.get(name).map(str::to_owned);
    let mut degrees = |name: &str| {
        let text = said.get(name)?;
        let value = text.replace(',', ".").parse().ok();
        if value.is_none() {
            let fix = "write degrees like `-6.1201`";
            problem = Some(Invalid::new(name, text.escape_debug(), "not a number", fix).into());
        }
        value
    };
    let (latitude, longitude) = (degrees("latitude"), degrees("longitude"));
    let targets = said.get("targets").map(serde_json::from_str).transpose();
    let targets = targets.unwrap_or_else(|error| {
        let fix = r#"write them like `[{"name": "server", "role": "server", "probe": "tcp://10.36.73.2:443"}]`"#;
        problem = Some(Invalid::new("targets", "…", error.to_string(), fix).into());
        None
    });
    let registration = Registration {
        code: code.to_owned(),
        name: text("name").unwrap_or_default(),
        regency: text("regency"),
        isp: text("isp"),
        pop: text("pop"),
        pool: text("pool"),
        latitude,
        longitude,
        hours: text("hours"),
        targets: targets.unwrap_or_default(),
    };
    (registration, problem)
}

/// Registers an office, or changes it.
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    reader: Reader,
    said: Said,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let (of_form, wrong) = registration_of(&code, &said);
    if let Some(problem) = wrong {
        return page(shared, reader, code.parse()?, Some((of_form, problem))).await;
    }
    let put = api::registrations::put(
        State(Arc::clone(&shared)),
        reader.caller.clone(),
        api::Path(code.clone()),
        api::Body(of_form.clone()),
    );
    match put.await {
        Ok(_) => Ok(Redirect::to(&format!("/kantor/{code}")).into_response()),
        Err(problem) => page(shared, reader, code.parse()?, Some((of_form, problem))).await,
    }
}
