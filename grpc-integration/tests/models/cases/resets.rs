//! The budget of resets: calls take from it, and the connection's task fills it again.

use std::sync::Arc;

use loom::thread;

use crate::model;
use crate::resets::{ResetBudget, Resets};

fn drain(budget: &ResetBudget) -> usize {
    std::iter::repeat_with(|| budget.take()).take_while(|taken| *taken).count()
}

#[test]
fn the_last_reset_is_taken_once() {
    model(|| {
        let budget = Arc::new(ResetBudget::new());
        let most = drain(&budget);
        Resets::new(1).on_read(&budget);
        for _ in 1..most {
            assert!(budget.take());
        }
        let other = {
            let budget = Arc::clone(&budget);
            thread::spawn(move || budget.take())
        };
        let taken = budget.take();
        assert_ne!(taken, other.join().unwrap());
        assert!(!budget.take());
    });
}

#[test]
fn no_more_is_taken_after_the_server_has_read_than_the_budget() {
    model(|| {
        let budget = Arc::new(ResetBudget::new());
        let most = drain(&budget);
        let other = {
            let budget = Arc::clone(&budget);
            thread::spawn(move || budget.take())
        };
        Resets::new(1).on_read(&budget);
        let taken = usize::from(other.join().unwrap());
        assert_eq!(taken + drain(&budget), most);
    });
}
