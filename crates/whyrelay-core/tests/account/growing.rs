//! An account that grows event by event is, at every moment, the account of the events so far.

use whyrelay_core::report::{Account, Report, render_json};
use whyrelay_core::trace::event::{Event, Vantage};

use crate::builder::Fate;
use crate::report::{direct, failed, finish_relayed, relayed};

fn sessions() -> Vec<Vec<Event>> {
    let mut through_relay = relayed();
    finish_relayed(&mut through_relay);
    let broken = failed(Fate::LostOnTheWay, Fate::AnswerLost);
    vec![direct().events, through_relay.events, broken.events.clone(), broken.of(Vantage::B)]
}

#[test]
fn every_step_is_the_report_of_the_events_so_far() {
    for events in sessions() {
        let mut account = Account::new();
        for (index, event) in events.iter().enumerate() {
            account.apply(event.clone());
            let whole = Report::from_events(&events[..=index]);
            assert_eq!(render_json(&account.report()), render_json(&whole), "after event {}", event.seq);
        }
        // A repeated event changes nothing.
        account.apply(events[0].clone());
        assert_eq!(account.len(), events.len());
    }
}

#[test]
fn stepping_in_the_order_of_time_ends_at_the_same_report() {
    for events in sessions() {
        let mut account = Account::new();
        events.iter().for_each(|event| account.apply(event.clone()));
        let log = account.log();
        assert_eq!(log.len(), events.len());
        assert!(log.windows(2).all(|two| two[0].at_us <= two[1].at_us));
        let mut steps = Account::new();
        account.events_in_order().into_iter().for_each(|event| steps.apply(event.clone()));
        assert_eq!(render_json(&steps.report()), render_json(&account.report()));
    }
}
