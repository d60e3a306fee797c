//! Making a world that is wrong small: fewer faults and decoys, simpler places, no conditions on links.

use std::collections::BTreeSet;

use super::{PLACES, World};
use crate::scenario::file::{File, Link, OneOrMany, Router};
use crate::scenario::presets::PRESETS;

/// Makes a world that is wrong as small as it stays wrong in the same way, by a judge who says what is wrong with one.
pub fn shrink_by(world: &World, judge: &dyn Fn(&World) -> Vec<String>) -> World {
    let kinds: Vec<String> = judge(world).iter().map(|problem| kind(problem)).collect();
    let is_wrong = |world: &World| judge(world).iter().any(|problem| kinds.contains(&kind(problem)));
    let mut smallest = world.clone();
    loop {
        let next = smaller(&smallest).find(&is_wrong);
        match next {
            Some(next) => smallest = next,
            None => return smallest,
        }
    }
}

/// What kind of problem it is: the words ahead of the particulars, without numbers.
fn kind(problem: &str) -> String {
    problem.split(':').next().unwrap_or_default().chars().filter(|character| !character.is_ascii_digit()).collect()
}

/// Worlds with one thing less, one at a time: what was planted goes first.
fn smaller(world: &World) -> impl Iterator<Item = World> + '_ {
    let without = (0..world.pieces.len()).filter_map(|left_out| {
        let pieces = world.pieces.iter().enumerate().filter(|(index, _)| *index != left_out);
        world.again(world.base.clone(), pieces.map(|(_, piece)| *piece))
    });
    let simpler = simpler(&world.base).into_iter().filter_map(|base| {
        let next = world.again(base, world.pieces.iter().copied())?;
        // What a piece lays over it all the same is no simpler world.
        (next.file != world.file).then_some(next)
    });
    without.chain(simpler)
}

/// Networks that are simpler in one thing.
fn simpler(base: &File) -> Vec<File> {
    let mut files = Vec::new();
    let mut propose = |change: &dyn Fn(&mut File)| {
        let mut changed = base.clone();
        change(&mut changed);
        let used: BTreeSet<String> = changed.routers_in_use().into_iter().cloned().collect();
        changed.router.retain(|name, _| used.contains(name));
        if changed != *base {
            files.push(changed);
        }
    };
    for name in ["a", "b"] {
        let Some(host) = base.host.get(name) else { continue };
        for index in 0..host.behind.names().len() {
            propose(&|file| {
                if let Some(host) = file.host.get_mut(name) {
                    let mut behind = host.behind.names().to_vec();
                    behind.remove(index);
                    host.behind = OneOrMany::Many(behind);
                }
            });
            // Presets are simpler than routers of their own, and earlier presets than later ones.
            let own = PRESETS.iter().position(|preset| preset.name == host.behind.names()[index]);
            for simpler in PLACES.iter().filter(|name| {
                let rank = PRESETS.iter().position(|preset| preset.name == **name);
                own.is_none_or(|own| rank.is_some_and(|rank| rank < own))
            }) {
                propose(&|file| {
                    if let Some(host) = file.host.get_mut(name) {
                        let mut behind = host.behind.names().to_vec();
                        behind[index] = (*simpler).to_owned();
                        host.behind = OneOrMany::Many(behind);
                    }
                });
            }
        }
        propose(&|file| {
            if let Some(host) = file.host.get_mut(name) {
                host.link = Link::default();
            }
        });
    }
    for name in base.router.keys() {
        let changes: [fn(&mut Router); 4] = [
            |router| router.ports = None,
            |router| router.addresses = None,
            |router| router.refresh = None,
            |router| router.overloading = None,
        ];
        for change in changes {
            propose(&|file| {
                if let Some(router) = file.router.get_mut(name) {
                    change(router);
                }
            });
        }
    }
    files
}
