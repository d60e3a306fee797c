//! Making a world that is wrong small.

use super::{PLACES, World, behinds, problems};
use crate::scenario::file::{Link, OneOrMany, Router};
use crate::scenario::presets::PRESETS;

/// Makes a world that is wrong as small as it stays wrong.
pub fn shrink(world: &World) -> World {
    let mut smallest = world.clone();
    let is_wrong = |world: &World| problems(world).is_ok_and(|problems| !problems.is_empty());
    loop {
        let next = smaller(&smallest).into_iter().find(|world| is_wrong(world));
        match next {
            Some(next) => smallest = next,
            None => return smallest,
        }
    }
}

/// Worlds with one thing less.
fn smaller(world: &World) -> Vec<World> {
    let mut worlds = Vec::new();
    let mut propose = |change: &dyn Fn(&mut World)| {
        let mut changed = world.clone();
        change(&mut changed);
        let used: Vec<String> = changed.file.host.values().flat_map(behinds).collect();
        changed.file.router.retain(|name, _| used.contains(name));
        if changed.file != world.file {
            worlds.push(changed);
        }
    };
    for name in ["a", "b"] {
        let Some(host) = world.file.host.get(name) else { continue };
        for index in 0..host.behind.names().len() {
            propose(&|world| {
                if let Some(host) = world.file.host.get_mut(name) {
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
                propose(&|world| {
                    if let Some(host) = world.file.host.get_mut(name) {
                        let mut behind = host.behind.names().to_vec();
                        behind[index] = (*simpler).to_owned();
                        host.behind = OneOrMany::Many(behind);
                    }
                });
            }
        }
        propose(&|world| {
            if let Some(host) = world.file.host.get_mut(name) {
                host.link = Link::default();
            }
        });
    }
    for name in world.file.router.keys() {
        let changes: [fn(&mut Router); 4] = [
            |router| router.ports = None,
            |router| router.addresses = None,
            |router| router.refresh = None,
            |router| router.overloading = None,
        ];
        for change in changes {
            propose(&|world| {
                if let Some(router) = world.file.router.get_mut(name) {
                    change(router);
                }
            });
        }
    }
    worlds
}
