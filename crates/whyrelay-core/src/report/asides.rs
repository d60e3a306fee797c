//! What a session did beside connecting, in the words that text, HTML and screen share: the comparison with an earlier
//! session, what was tried, how another program's sockets fared, the probes.

use super::Report;
use crate::diagnosis::session::Path;

/// A part of the account with a heading of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// What it is called where it has to be pointed at.
    pub id: &'static str,
    /// Its heading.
    pub heading: String,
    /// What it comes to, if one sentence says it.
    pub lead: Option<String>,
    /// Point by point.
    pub points: Vec<Point>,
    /// What follows from them.
    pub conclusion: Option<&'static str>,
}

/// One point of an [`Aside`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// What it says.
    pub words: String,
    /// The event behind it, if it is one.
    pub seq: Option<u64>,
}

impl Point {
    const fn of(words: String) -> Self {
        Self { words, seq: None }
    }
}

/// All that a report has.
pub fn asides(report: &Report) -> Vec<Aside> {
    let mut asides = Vec::new();
    asides.extend(proof(report));
    asides.extend(outages(report));
    asides.extend(tried(report));
    asides.extend(report.comparisons.iter().map(|row| Aside {
        id: "as-program",
        heading: format!("As {}", row.application),
        lead: Some(row.summary.clone()),
        points:
            (row.not_imitated.iter()).map(|what| Point::of(format!("not like {}: {what}", row.application))).collect(),
        conclusion: None,
    }));
    asides.extend(probes(report));
    asides
}

fn proof(report: &Report) -> Option<Aside> {
    let proof = report.proof.as_ref()?;
    let mut points = Vec::new();
    let lists = [
        ("gone", &proof.gone),
        ("left", &proof.left),
        ("new", &proof.new),
        (super::proof::NOT_MEASURED, &proof.not_measured),
    ];
    for (words, list) in lists {
        points.extend(list.iter().map(|finding| {
            let at = finding.blame.name();
            Point::of(format!("{words}: {} {} (at {at}): {}", finding.code, finding.name, finding.summary))
        }));
    }
    points.extend(proof.changes.iter().cloned().map(Point::of));
    let heading = "Compared with the earlier session".to_owned();
    Some(Aside { id: "proof", heading, lead: Some(proof.summary.clone()), points, conclusion: None })
}

fn outages(report: &Report) -> Option<Aside> {
    if report.outages.is_empty() {
        return None;
    }
    let points = report.outages.iter().map(|row| Point { words: row.words.clone(), seq: Some(row.seq) });
    let heading = "Breaks of the path".to_owned();
    Some(Aside { id: "outages", heading, lead: None, points: points.collect(), conclusion: None })
}

fn tried(report: &Report) -> Option<Aside> {
    if report.tried.is_empty() {
        return None;
    }
    let conclusion = match report.path {
        Path::Direct if report.over_tcp => "With it the path is direct over TCP, still not over UDP.",
        Path::Direct => "With it the path is direct.",
        Path::Relayed => "With it the path is still relayed.",
        Path::Failed => "With it there is still no path.",
    };
    Some(Aside {
        id: "tried",
        heading: "Tried for this session only".to_owned(),
        lead: None,
        points: report.tried.iter().cloned().map(Point::of).collect(),
        // What was not made says nothing of the path.
        conclusion: (report.decided && !report.tried.iter().all(|what| what.ends_with(super::probes::NOT_MADE)))
            .then_some(conclusion),
    })
}

fn probes(report: &Report) -> Option<Aside> {
    if report.probes.is_empty() {
        return None;
    }
    let point = |row: &super::ProbeRow| Point {
        words: format!("{}  {}, to {}: {}", row.side.name(), row.probe, row.to, row.result),
        seq: Some(row.seq),
    };
    Some(Aside {
        id: "probes",
        heading: "Probes".to_owned(),
        lead: None,
        points: report.probes.iter().map(point).collect(),
        conclusion: None,
    })
}
