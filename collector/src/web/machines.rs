//! Machines in the settings: which have joined, by which invitations more may, and how one is shut out.

use super::reader::{Reader, Said};
use super::settings::{Outcome, done, outcome, sure};
use super::words::Exact;
use crate::access::Scope;
use crate::api::{self, Problem, Shared};
use crate::join::{Member, Offer};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use denyut_detect::calendar::Zone;
use denyut_proto::AgentId;
use maud::{Markup, html};
use std::sync::Arc;

/// Machines that are listed, the newest first; the others are found by their offices.
const SHOWN: usize = 50;

/// The section. Blocks.
pub(super) fn section(reader: &Reader, shared: &Shared) -> anyhow::Result<Markup> {
    let words = reader.words;
    let Some(members) = &shared.query.members else {
        return Ok(html! {
            section aria-labelledby="machines" {
                h2 id="machines" { (words.say("machines")) }
                p class="soft" { (words.say("machines.off")) }
            }
        });
    };
    let sees = &reader.caller.regions;
    let mut offers = members.offers()?;
    offers.retain(|(_, offer)| sees.has(&offer.office) && offer.expires > reader.now);
    let all = members.list().into_iter();
    let mut joined: Vec<(AgentId, Member)> = all
        .filter(|(_, member)| sees.has(&member.office) && member.revoked.is_none())
        .collect();
    joined.sort_by_key(|(_, member)| std::cmp::Reverse(member.joined));
    let left = joined.len().saturating_sub(SHOWN);
    joined.truncate(SHOWN);
    Ok(html! {
        section aria-labelledby="machines" {
            h2 id="machines" { (words.say("machines")) }
            p class="soft" { (words.say("machines.about")) }
            form method="post" action="/pengaturan/undangan" class="fields" {
                label { span { (words.say("office_code")) } input name="office" required placeholder="11.01.01" inputmode="decimal" autocomplete="off"; }
                button { (words.say("machines.invite")) }
            }
            @if !offers.is_empty() {
                h3 { (words.say("machines.offers")) }
                ul class="plain" { @for (name, offer) in &offers { li { (offer_line(reader, name, offer)) } } }
            }
            @if !joined.is_empty() {
                h3 { (words.say("machines.joined")) }
                p class="soft" { (words.say("machines.replace")) }
                div class="scroll" tabindex="0" { table {
                    thead { tr { th scope="col" { (words.say("name")) } th scope="col" { (words.say("office")) } th scope="col" { (words.say("machines.since")) } th { span class="hidden" { (words.say("machines.revoke")) } } } }
                    tbody { @for (agent, member) in &joined { (row(reader, agent, member)) } }
                } }
                @if left > 0 { p class="soft" { (words.fill("machines.more", &[("count", &left.to_string())])) } }
            }
        }
    })
}

fn offer_line(reader: &Reader, name: &str, offer: &Offer) -> Markup {
    let words = reader.words;
    let until = words.time(
        offer.expires,
        reader.now,
        Zone::of(&offer.office),
        Exact::Minute,
    );
    let uses = offer.uses.to_string();
    html! {
        a href={ "/kantor/" (offer.office) } { (offer.office) } " · "
        (words.fill("machines.offer", &[("count", &uses), ("time", &until)])) " "
        (sure(&format!("/pengaturan/undangan/{name}/hapus"), &words.say("machines.withdraw"), &words.fill("remove.sure", &[("name", name)])))
    }
}

fn row(reader: &Reader, agent: &AgentId, member: &Member) -> Markup {
    let words = reader.words;
    html! {
        tr {
            th scope="row" { (agent) }
            td { a href={ "/kantor/" (member.office) } { (member.office) } }
            td { (words.day(member.joined, Zone::of(&member.office))) }
            td { (sure(&format!("/pengaturan/mesin/{agent}/cabut"), &words.say("machines.revoke"), &words.fill("machines.sure", &[("name", agent.as_str())]))) }
        }
    }
}

/// Invites a machine.
pub(super) async fn invite(
    State(shared): State<Arc<Shared>>,
    reader: Reader,
    said: Said,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let invite = async {
        let office = said.need("office")?;
        let wish = api::machines::Invite::of(office.clone());
        let caller = reader.caller.clone();
        let (_, _, Json(made)) =
            api::machines::invite(State(Arc::clone(&shared)), caller, api::Body(wish)).await?;
        Ok(Outcome::Secret {
            key: "machines.invited",
            what: office,
            secret: format!("denyut-agent join '{}'", made.invitation()),
        })
    };
    let made = invite.await;
    Ok(outcome(&shared, &reader, made))
}

/// Takes an invitation back.
pub(super) async fn withdraw(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let caller = reader.caller.clone();
    let gone = api::machines::withdraw(State(Arc::clone(&shared)), caller, api::Path(name)).await;
    Ok(done(&shared, &reader, gone.map(drop), "machines"))
}

/// Shuts a machine out.
pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    Path(agent): Path<String>,
    reader: Reader,
) -> Result<Response, Problem> {
    reader.must(Scope::Admin)?;
    let caller = reader.caller.clone();
    let gone = api::machines::revoke(State(Arc::clone(&shared)), caller, api::Path(agent)).await;
    Ok(done(&shared, &reader, gone.map(drop), "machines"))
}
