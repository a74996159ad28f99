//! `allow` and `collectors` name portspaces of their HyperSpector that can reach each other.

use std::collections::BTreeSet;

use crate::errors::SpecError;
use crate::model::{Allow, AllowRule, Hyperspector, Topology};
use crate::reader::{At, Problems};
use crate::words::suggest;

/// A portspace on a host.
type End<'a> = (&'a str, &'a str);

/// Notes what is wrong with who may talk to whom.
pub(super) fn ends_are_known(hyperspector: &Hyperspector, problems: &Problems) {
    for collector in &hyperspector.collectors {
        if collector.value.contains('.') {
            let message = format!("`{}` is not a portspace, but one on one host", collector.value);
            let help = "`collectors` are whole portspaces; `allow` takes this form: to = \"…\"";
            problems.add(SpecError::new(collector.span.clone(), message).help(help));
        } else {
            problems.keep(known(hyperspector, collector));
        }
    }
    match &hyperspector.allow {
        Allow::All(span) if hyperspector.topology.value == Topology::Collectors => {
            let message = "not all can reach each other where topology = \"collectors\"";
            let help = "most hosts do not know each other there: say with `allow` what may be \
                        reached, or leave `topology` out";
            problems.add(SpecError::new(span.clone(), message).help(help));
        }
        Allow::All(_) => {}
        Allow::Rules(rules) => {
            rules.iter().for_each(|rule| rule_leads_somewhere(hyperspector, rule, problems));
        }
    }
    if hyperspector.topology.value == Topology::Collectors && hyperspector.collectors.is_empty() {
        let message = "topology = \"collectors\" takes collectors";
        let help = "add to this section: collectors = [\"collector\"]";
        problems.add(SpecError::new(hyperspector.topology.span.clone(), message).help(help));
    }
}

fn rule_leads_somewhere(hyperspector: &Hyperspector, rule: &AllowRule, problems: &Problems) {
    let ends = |names: &[At<String>]| -> Option<Vec<_>> {
        let known = names.iter().map(|name| problems.keep(known(hyperspector, name)));
        let known: Vec<_> = known.collect();
        let all: Option<Vec<_>> = known.into_iter().collect();
        all.map(|lists| lists.concat())
    };
    let from = match &rule.from {
        Some(names) => ends(names),
        None => Some(everybody(hyperspector).collect()),
    };
    let (Some(from), Some(to)) = (from, ends(&rule.to)) else { return };
    // What is empty has had its error, or stands for portspaces without hosts, which have theirs.
    let Some(at) = rule.to.first().filter(|_| !from.is_empty() && !to.is_empty()) else { return };
    let pairs: Vec<_> = from
        .iter()
        .flat_map(|from| to.iter().map(move |to| (*from, *to)))
        .filter(|(from, to)| from != to)
        .collect();
    if pairs.is_empty() {
        let message = format!("this rule leads from `{}` to itself alone", at.value);
        let help = "a portspace reaches itself without a rule";
        problems.add(SpecError::new(at.span.clone(), message).help(help));
    }
    let has_way =
        |(from, to): &(End<'_>, End<'_>)| from.1 == to.1 || hyperspector.are_peers(from.1, to.1);
    // Where everybody is meant, those that cannot be are not.
    let Some(named) = &rule.from else { return };
    if let Some((from, to)) = pairs.iter().find(|pair| !has_way(pair)) {
        let message = format!("there is no way from {}.{} to {}.{}", from.0, from.1, to.0, to.1);
        let help = "topology = \"collectors\" joins hosts without a collector to those with one \
                    alone; name as `from` and `to` what is joined, or leave `topology` out";
        let span = named.first().map_or(&at.span, |name| &name.span);
        problems.add(SpecError::new(span.clone(), message).help(help));
    }
}

fn everybody(hyperspector: &Hyperspector) -> impl Iterator<Item = End<'_>> {
    hyperspector.portspaces.iter().flat_map(|portspace| {
        portspace.on.iter().map(|host| (portspace.name.value.as_str(), host.value.as_str()))
    })
}

/// The ends that a name means.
fn known<'a>(hyperspector: &'a Hyperspector, name: &At<String>) -> Result<Vec<End<'a>>, SpecError> {
    let (portspace, host) = match name.value.split_once('.') {
        Some((portspace, host)) => (portspace, Some(host)),
        None => (name.value.as_str(), None),
    };
    let ends: Vec<_> = everybody(hyperspector).filter(|end| end.0 == portspace).collect();
    let names: BTreeSet<_> =
        hyperspector.portspaces.iter().map(|portspace| portspace.name.value.as_str()).collect();
    let error =
        |message: String, help: String| Err(SpecError::new(name.span.clone(), message).help(help));
    if !names.contains(portspace) {
        let known: Vec<_> = names.into_iter().collect();
        let own = &hyperspector.name.value;
        let message = format!("HyperSpector `{own}` has no portspace `{portspace}`");
        return error(message, suggest(portspace, "its portspaces", &known));
    }
    let Some(host) = host else { return Ok(ends) };
    let hosts: Vec<_> = ends.iter().map(|end| end.1).collect();
    if !hosts.contains(&host) {
        let message = format!("portspace `{portspace}` is not on `{host}`");
        return error(message, suggest(host, "it is on", &hosts));
    }
    Ok(ends.into_iter().filter(|end| end.1 == host).collect())
}
