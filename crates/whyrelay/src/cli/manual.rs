//! `whyrelay completions` and `whyrelay man`: made from the same definitions that the command line is read with.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::args::Cli;
use super::{HEALTHY, answer};

/// `whyrelay completions`.
#[derive(Clone, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// `whyrelay man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// Write a page for each verb into this directory, which is made; without it, whyrelay(1) goes to stdout
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<u8> {
    answer(&completions_for(args.shell))?;
    Ok(HEALTHY)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<u8> {
    let pages = man_pages()?;
    match &args.directory {
        Some(directory) => {
            write_pages(directory, &pages)?;
            crate::tell!(
                "{} pages in {}; read one with: man -l {}/whyrelay.1",
                pages.len(),
                directory.display(),
                directory.display()
            );
        }
        None => answer(pages.first().map_or("", |(_, page)| page))?,
    }
    Ok(HEALTHY)
}

fn completions_for(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "whyrelay", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn write_pages(directory: &Path, pages: &[(String, String)]) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("making the directory {}", directory.display()))?;
    for (name, page) in pages {
        let file = directory.join(name);
        std::fs::write(&file, page).with_context(|| format!("writing the page {}", file.display()))?;
    }
    Ok(())
}

/// Name and text of every page: whyrelay(1) first, then one for each verb.
fn man_pages() -> anyhow::Result<Vec<(String, String)>> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    collect(&command, "whyrelay", &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, name: &str, pages: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    let mut page = Vec::new();
    // The page's title is the verb's whole path, as git does it: clap has made it the command's display name.
    clap_mangen::Man::new(command.clone()).render(&mut page).context("making a manual page")?;
    pages.push((format!("{name}.1"), String::from_utf8_lossy(&page).into_owned()));
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help" && !verb.is_hide_set()) {
        collect(verb, &format!("{name}-{}", verb.get_name()), pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    /// Every verb, nested ones too, with its page's name.
    fn verbs(command: &Command, name: &str, found: &mut Vec<(String, Command)>) {
        found.push((name.to_owned(), command.clone()));
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            verbs(verb, &format!("{name}-{}", verb.get_name()), found);
        }
    }

    fn all_verbs() -> Vec<(String, Command)> {
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        verbs(&command, "whyrelay", &mut found);
        found
    }

    #[test]
    fn completions_of_every_shell_know_every_verb_and_flag() {
        for shell in Shell::value_variants() {
            let script = completions_for(*shell);
            for (name, command) in all_verbs() {
                assert!(script.contains(command.get_name()), "{shell}: {name}");
                for flag in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                    let Some(long) = flag.get_long() else { continue };
                    // fish and elvish write `-l stun`, the others `--stun`.
                    assert!(script.contains(long), "{shell}: {name} --{long}");
                }
            }
        }
    }

    #[test]
    fn a_manual_page_of_each_verb_names_every_flag() {
        let pages = man_pages().expect("pages");
        let verbs = all_verbs();
        assert_eq!(pages.len(), verbs.len());
        for ((name, command), (file, page)) in verbs.iter().zip(&pages) {
            assert_eq!(*file, format!("{name}.1"));
            // In roff a hyphen is written with a backslash.
            let page = page.replace("\\-", "-");
            for flag in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let Some(long) = flag.get_long() else { continue };
                assert!(page.contains(&format!("--{long}")), "{file}: --{long}");
            }
            for verb in command.get_subcommands() {
                assert!(page.contains(verb.get_name()), "{file}: {}", verb.get_name());
            }
        }
    }

    #[test]
    fn pages_are_written_as_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let args = ManArgs { directory: Some(directory.path().join("man1")) };
        man(&args).expect("pages");
        let page = std::fs::read_to_string(directory.path().join("man1/whyrelay-offer.1")).expect("a page");
        assert!(page.contains(".TH whyrelay-offer 1"), "{}", &page[..200]);
    }
}
