//! `whyrelay demo`: two stories about peers that end up on a relay, told on the laboratory: in network namespaces with
//! real kernels where the system lets us, else in virtual time.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use whyrelay_core::diagnosis::finding::Severity;
use whyrelay_core::report::{TextOptions, render_text};
use whyrelay_lab::draw;
use whyrelay_lab::run::{Observed, Verdict, judge, path_name, run_virtual_unless};
use whyrelay_lab::scenario::Scenario;

use super::account::Wanted;
use super::args::{DemoArgs, Format, Story};
use super::{COULD_NOT_LOOK, FINDING, HEALTHY, answer};

/// What is told of one story.
struct Tale {
    story: Story,
    head: &'static str,
    before: &'static str,
    /// The same network with a plain test first, and what to say of it.
    plain: Option<(&'static str, &'static str)>,
    scenario: &'static str,
    after: &'static str,
}

const TALES: [Tale; 2] = [
    Tale {
        story: Story::Homes,
        head: "Two homes",
        before: "B is behind an ordinary home router. A is behind a firewall whose NAT gives every destination another \
                 port (address-and-port-dependent mapping).",
        plain: None,
        scenario: "symmetric-against-home",
        after: "The relay is not a mistake here: nothing on either computer would help.",
    },
    Tale {
        story: Story::Vpn,
        head: "A VPN that is relayed although a test connects",
        before: "Two ordinary home routers. On A a rule of another program catches packets by their mark, and the VPN \
                 marks its packets.",
        plain: Some(("vpn-plain-socket", "A plain test, as most tools make it (whyrelay offer)")),
        scenario: "vpn-marked-socket",
        after: "The networks are innocent: one policy rule on A is the whole cause, and only a test with the VPN's own \
                mark and port meets it.",
    },
];

/// Of each tale that is told: the plain run, if it has one, and the run that is explained.
type Runs = Vec<(&'static Tale, Vec<(Scenario, Observed)>)>;

pub(super) fn run(args: DemoArgs, color: bool) -> anyhow::Result<u8> {
    let wanted = Wanted { format: args.format, color, output: args.output.clone(), ..Wanted::default() };
    wanted.check()?;
    let began = Instant::now();
    let told = |tale: &&Tale| match (args.story, args.format) {
        (Some(story), _) => tale.story == story,
        (None, Format::Text) => true,
        // One account: the story that whyrelay was made for.
        (None, Format::Json | Format::Html) => tale.story == Story::Vpn,
    };
    let tales: Vec<&Tale> = TALES.iter().filter(told).collect();
    let (runs, world) = tell(&args, &tales)?;
    crate::tell!("done after {:.1} s\n", began.elapsed().as_secs_f64());
    let mut verdicts: Vec<Verdict> = Vec::new();
    for (scenario, observed) in runs.iter().flat_map(|(_, runs)| runs) {
        verdicts.push(judge(&scenario.topology, observed));
    }
    if args.format == Format::Text {
        let text = text(&runs, &world, color && args.output.is_none());
        match &args.output {
            Some(file) => std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?,
            None => answer(&text)?,
        }
    } else if let Some((_, observed)) = runs.first().and_then(|(_, runs)| runs.last()) {
        wanted.print(&observed.events)?;
    }
    for verdict in verdicts.iter().filter(|verdict| !verdict.passed()) {
        crate::tell!("note: {} did not come out as told: {}", verdict.scenario, verdict.problems.join("; "));
    }
    if let Some(left) = super::lab::left() {
        crate::tell!("{left}");
        return Ok(COULD_NOT_LOOK);
    }
    // What the stories find is found on purpose: the demo itself went well when they came out as told.
    Ok(if verdicts.iter().all(Verdict::passed) { HEALTHY } else { FINDING })
}

/// Runs all tales; answers in which world, too.
fn tell(args: &DemoArgs, tales: &[&'static Tale]) -> anyhow::Result<(Runs, String)> {
    let mut runs = Vec::new();
    for tale in tales {
        let names = tale.plain.iter().map(|(name, _)| *name).chain([tale.scenario]);
        let scenarios = names.map(|name| Scenario::find(name).with_context(|| format!("the scenario {name}")));
        runs.push((*tale, scenarios.collect::<anyhow::Result<Vec<Scenario>>>()?));
    }
    // Set by signals once they are watched; until then they end the process.
    let mut interrupted = Arc::default();
    let why_not = match args.virtual_time {
        true => "as asked for".to_owned(),
        false => match in_namespaces(&runs, &mut interrupted)? {
            Ok(done) => {
                return Ok((done, "Everything below happened in network namespaces, between real kernels.".to_owned()));
            }
            Err(reason) => {
                crate::tell!("network namespaces cannot be used here: {reason}");
                "because network namespaces cannot be used here (see above)".to_owned()
            }
        },
    };
    crate::tell!("in virtual time, {why_not}");
    let mut done = Vec::new();
    for (tale, scenarios) in runs {
        let mut runs = Vec::new();
        for scenario in scenarios {
            match run_virtual_unless(&scenario.topology, &interrupted) {
                Some(observed) => runs.push((scenario, observed)),
                None => stop_if(&interrupted)?,
            }
        }
        done.push((tale, runs));
    }
    Ok((done, format!("Everything below happened in virtual time, {why_not}.")))
}

/// All of them at the same time; the inner error says why it cannot be done here. A session that fails where it can is an
/// error.
#[cfg(target_os = "linux")]
fn in_namespaces(
    tales: &[(&'static Tale, Vec<Scenario>)],
    interrupted: &mut Arc<AtomicBool>,
) -> anyhow::Result<Result<Runs, String>> {
    use whyrelay_lab::kernel::{Conditions, LabError, RouterChoice, privilege, run_kernel};

    // Before the first thread: the kernel wants it so.
    let privilege = match privilege::acquire() {
        Ok(privilege) => privilege,
        Err(error) => return Ok(Err(error.to_string())),
    };
    *interrupted = super::lab::watch_interrupts()?;
    let program = std::env::current_exe().context("finding this program's own file")?;
    let conditions = Conditions { program: &program, routers: RouterChoice::Kernel, certify: None, interrupted };
    let how = match privilege {
        privilege::Privilege::Root => "as root",
        privilege::Privilege::UserNamespace => "without root, in a user namespace",
    };
    crate::tell!("building networks from network namespaces, {how}; this machine's own network is not touched");
    let all: Vec<&Scenario> = tales.iter().flat_map(|(_, scenarios)| scenarios).collect();
    let outcomes: Vec<Result<Observed, LabError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .iter()
            .map(|scenario| {
                scope.spawn(|| {
                    let ran = run_kernel(&scenario.topology, &conditions)?;
                    let path = path_name(ran.observed.path);
                    let up = ran.up_after.as_secs_f64();
                    crate::tell!("  {}: {path} (the network was up in {up:.2} s)", scenario.topology.title);
                    Ok(ran.observed)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    stop_if(interrupted)?;
    // In whichever network that was built: virtual time would only hide it.
    let is_hidden =
        |outcome: &Result<Observed, LabError>| outcome.as_ref().is_err_and(|error| !error.is_about_this_system());
    let failed = outcomes.iter().position(is_hidden);
    let mut outcomes = outcomes.into_iter();
    if let Some(failed) = failed
        && let Some(Err(error)) = outcomes.nth(failed)
    {
        return Err(error).context(format!("{}, between real kernels", all[failed].name));
    }
    let mut done = Vec::new();
    for (tale, scenarios) in tales {
        let mut runs = Vec::new();
        for scenario in scenarios {
            match outcomes.next() {
                Some(Ok(observed)) => runs.push((scenario.clone(), observed)),
                Some(Err(error)) => return Ok(Err(format!("{:#}", anyhow::Error::new(error)))),
                None => return Ok(Err("a run is missing".to_owned())),
            }
        }
        done.push((*tale, runs));
    }
    Ok(Ok(done))
}

#[cfg(not(target_os = "linux"))]
fn in_namespaces(
    _: &[(&'static Tale, Vec<Scenario>)],
    _: &mut Arc<AtomicBool>,
) -> anyhow::Result<Result<Runs, String>> {
    Ok(Err("they are Linux's own".to_owned()))
}

/// An interrupt ends the demo, whatever else it has made fail.
fn stop_if(interrupted: &AtomicBool) -> anyhow::Result<()> {
    anyhow::ensure!(
        !interrupted.load(Ordering::Relaxed),
        "interrupted; {}",
        super::lab::removal(super::lab::left().as_deref())
    );
    Ok(())
}

fn text(runs: &Runs, world: &str, color: bool) -> String {
    let bold = |text: &str| if color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
    let mut text = format!("{}\n", wrapped(world));
    for (number, (tale, runs)) in (1..).zip(runs) {
        let head = format!("Story {number}: {}", tale.head);
        let _ = write!(text, "\n{}\n{}\n\n{}\n", bold(&head), "=".repeat(head.len()), wrapped(tale.before));
        let Some((scenario, observed)) = runs.last() else { continue };
        text.push_str(&draw::text(&scenario.topology));
        if let (Some((_, what)), Some((_, plain))) = (tale.plain, runs.first()) {
            let session = &scenario.topology.sessions[0];
            let mark = session.mark.map_or_else(String::new, |mark| format!(" --mark {mark:#x}"));
            let _ = write!(
                text,
                "\n{what}: {}.\n{}\n",
                path_name(plain.path).to_uppercase(),
                wrapped(&format!("The same as the VPN does it (whyrelay offer{mark} --port {}):", session.port))
            );
        }
        let _ = write!(text, "\n{}\n{}\n", account(observed, color), wrapped(tale.after));
    }
    let _ = write!(
        text,
        "\nGo on\n  \
         whyrelay demo --story vpn --format html -o vpn.html   a whole account: every check, where it got to\n  \
         whyrelay serve, answer, offer                         the same between two machines of yours\n  \
         whyrelay check                                        what this host's network does to UDP\n  \
         whyrelay explain CODE                                 what a finding means, for instance WR106\n  \
         whyrelay lab list                                     more networks, and yours from a file\n"
    );
    text
}

/// What a newcomer reads of an account: the verdict, and what is wrong.
fn account(observed: &Observed, color: bool) -> String {
    let mut report = observed.report.clone();
    report.findings.retain(|finding| finding.severity != Severity::Info);
    // The first is the root cause; what follows from it is for the whole account.
    report.findings.truncate(1);
    let whole = render_text(&report, &TextOptions { color, ..TextOptions::default() });
    // Sections end with an empty line.
    let findings = whole.find("\nFindings\n").map_or(0, |at| at + 1);
    let end = whole[findings..].find("\n\n").map_or(whole.len(), |length| findings + length);
    format!("{}\n", &whole[..end])
}

/// Lines of at most this many letters.
const WIDTH: usize = 100;

fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        if length > 0 && length + 1 + word.len() > WIDTH {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += word.len();
    }
    lines
}
