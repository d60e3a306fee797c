//! A drawing shows all that makes a network another than a plain one.

use std::collections::BTreeMap;

use whyrelay_lab::draw::{svg, text};
use whyrelay_lab::scenario::file::Expect;
use whyrelay_lab::scenario::{Scenario, Topology};

use crate::keys::{self, KEYS};

fn parse(text: &str) -> Topology {
    Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}\n{text}")).topology
}

/// A network without what is no part of it: names for people, and what must come out.
fn bare(topology: &Topology) -> Topology {
    Topology {
        name: String::new(),
        title: String::new(),
        about: None,
        worlds: Vec::new(),
        seed: 0,
        expect: Expect::default(),
        ..topology.clone()
    }
}

#[test]
fn no_two_scenarios_with_different_networks_have_one_drawing() {
    let mut drawings: BTreeMap<String, (String, Topology)> = BTreeMap::new();
    let mut pictures: BTreeMap<String, String> = BTreeMap::new();
    for (name, source) in Scenario::embedded() {
        let Scenario { topology, .. } = Scenario::parse(name, source).unwrap_or_else(|error| panic!("{error}"));
        let network = bare(&topology);
        if let Some((other, same)) = drawings.insert(text(&network), (topology.name.clone(), network.clone())) {
            assert!(same == network, "{name} and {other} have one drawing:\n{}", text(&network));
        } else if let Some(other) = pictures.insert(svg(&network), topology.name.clone()) {
            panic!("{name} and {other} have one picture");
        }
    }
    assert!(drawings.len() > 100, "only {} drawings", drawings.len());
}

/// Each key changes the text and the picture, and is said.
#[test]
fn every_key_of_a_network_is_drawn() {
    for (base, key, words) in KEYS.iter().copied().filter(|(_, _, words)| !words.is_empty()) {
        let (plain, drawn) = (parse(&keys::file(base)), parse(&keys::file(&format!("{base}{key}"))));
        assert_ne!(text(&drawn), text(&plain), "{base}{key}");
        assert_ne!(svg(&drawn), svg(&plain), "{base}{key}");
        assert!(text(&drawn).contains(words), "{words:?} is not in:\n{}", text(&drawn));
        assert!(!text(&plain).contains(words) || base.is_empty() && key.is_empty(), "{words:?} was there before {key}");
    }
}

#[test]
fn a_host_with_two_uplinks_is_one_box_and_its_second_interface_another() {
    let drawn = parse(
        "title = \"t\"\n[host.a]\nbehind = \"home-router\"\n[[host.a.interface]]\nname = \"eth1\"\n\
         behind = \"mobile-carrier\"\n[host.b]\n[expect]\npath = \"direct\"\n",
    );
    let picture = text(&drawn);
    assert_eq!(picture.matches("-- host a").count(), 1, "{picture}");
    assert_eq!(picture.matches("-- eth1 of host a").count(), 1, "{picture}");
    let picture = svg(&drawn);
    assert_eq!(picture.matches("class=\"same\"").count(), 1, "{picture}");
    assert_eq!(picture.matches("class=\"uplink\"").count(), 1, "{picture}");
}

#[test]
fn a_long_title_makes_no_picture_wider_and_is_whole() {
    let mut drawn = parse("title = \"t\"\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\n");
    let size = |picture: &str, of: &str| -> usize {
        let (_, rest) = picture.split_once(&format!(" {of}=\"")).unwrap();
        rest.split('"').next().unwrap().parse().unwrap()
    };
    let short = svg(&drawn);
    drawn.title = format!("{} {}", "words & more".repeat(80), "x".repeat(400));
    let long = svg(&drawn);
    assert_eq!(size(&long, "width"), size(&short, "width"));
    assert!(size(&long, "height") > size(&short, "height") + 300, "what is below has moved down");
    assert!(long.matches('x').count() >= short.matches('x').count() + 400, "nothing of it is missing");
}

#[test]
fn a_one_to_one_router_without_hosts_is_drawn_as_one() {
    let drawn = parse(
        "title = \"t\"\n[host.a]\n[host.b]\n[host.c]\nbehind = \"cloud\"\nipv4 = false\nipv6 = true\n\
         [expect]\npath = \"direct\"\n",
    );
    let picture = text(&drawn);
    assert!(!picture.contains(" , "), "{picture}");
}

/// No file can say one; a program may.
#[test]
fn a_title_moves_no_cursor() {
    let mut drawn = parse("title = \"t\"\n[host.a]\n[host.b]\n[expect]\npath = \"direct\"\n");
    drawn.title = "\u{1b}[31mred".to_owned();
    assert!(!text(&drawn).contains('\u{1b}') && !svg(&drawn).contains('\u{1b}'));
    let none_of_xml = ['\u{FFFE}', '\u{FFFF}'];
    drawn.title = "a \u{FFFE} and a \u{FFFF}, which files can say, and \u{1F980}".to_owned();
    let drawn = svg(&drawn);
    assert!(
        !drawn.contains(none_of_xml)
            && drawn.contains("a \u{FFFD} and a \u{FFFD}, which")
            && drawn.contains('\u{1F980}')
    );
}
