//! Faults for the fake backends: the Nth call from now, or the next one of an operation, fails or hangs, before or after its
//! effect, or fails with an errno. The fakes of runtime, network and image share one [`Faults`], so that N counts the calls of all
//! three. A hanging call stands for a server that dies there: the test drops the server, starts another on the same state, and
//! releases the hung thread at the end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The fault of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails without its effect.
    FailBefore,
    /// It has its effect, and fails.
    FailAfter,
    /// It fails with this errno, without its effect.
    Errno(i32),
    /// It hangs before its effect until it is released.
    HangBefore,
    /// It hangs after its effect until it is released.
    HangAfter,
}

/// The cause of a fault's error.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The plan of faults that fakes share; a clone is the same plan.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    plan: Mutex<Plan>,
    changed: Condvar,
}

/// The call that a fault strikes.
#[derive(Debug)]
enum Call {
    /// By its number, whatever it does.
    Number(u64),
    /// The next one of this operation.
    Of(&'static str),
}

#[derive(Debug, Default)]
struct Plan {
    calls: u64,
    armed: Vec<(Call, Fault)>,
    hung: u64,
    generation: u64,
    /// Whether the hung calls of the last generation succeeded.
    resumed: bool,
}

impl Faults {
    /// Arms a fault for the `nth` call from now, counted from 1. It strikes once; arming again replaces it.
    pub fn arm(&self, nth: u64, fault: Fault) {
        let mut plan = self.lock();
        plan.armed = vec![(Call::Number(plan.calls + nth), fault)];
    }

    /// As [`Faults::arm`], for the next call of an operation, which the fake names: `rootfs usage`.
    pub fn arm_next(&self, operation: &'static str, fault: Fault) {
        self.arm_each(&[(operation, fault)]);
    }

    /// As [`Faults::arm_next`], for the next call of each of several operations.
    pub fn arm_each(&self, faults: &[(&'static str, Fault)]) {
        self.lock().armed = faults.iter().map(|(operation, fault)| (Call::Of(operation), *fault)).collect();
    }

    /// Disarms; returns whether every fault had struck.
    pub fn disarm(&self) -> bool {
        std::mem::take(&mut self.lock().armed).is_empty()
    }

    /// The number of calls.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Waits until a call hangs; false when none does within `timeout`.
    #[must_use]
    pub fn wait_until_hung(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut plan = self.lock();
        while plan.hung == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            plan = self.shared.changed.wait_timeout(plan, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lets every hung call fail.
    pub fn release(&self) {
        self.let_go(false);
    }

    /// Lets every hung call succeed, as if it had been slow.
    pub fn resume(&self) {
        self.let_go(true);
    }

    fn let_go(&self, resumed: bool) {
        let mut plan = self.lock();
        plan.generation += 1;
        plan.hung = 0;
        plan.resumed = resumed;
        self.shared.changed.notify_all();
    }

    /// Makes one call of a fake: its effect, and the fault that is due. `error` makes an error of the fault's cause.
    ///
    /// # Errors
    /// The effect's own, or the injected one.
    pub fn call<T, E>(
        &self,
        operation: &str,
        effect: impl FnOnce() -> Result<T, E>,
        error: impl FnOnce(Cause) -> E,
    ) -> Result<T, E> {
        let injected = |how: &str| Cause::from(format!("injected: {operation} {how}"));
        match self.turn(operation) {
            None => effect(),
            Some(Fault::FailBefore) => Err(error(injected("fails"))),
            Some(Fault::FailAfter) => {
                effect()?;
                Err(error(injected("fails after its work")))
            }
            Some(Fault::Errno(number)) => Err(error(std::io::Error::from_raw_os_error(number).into())),
            Some(Fault::HangBefore) => {
                if self.hang() {
                    effect()
                } else {
                    Err(error(injected("hung")))
                }
            }
            Some(Fault::HangAfter) => {
                let done = effect();
                if self.hang() { done } else { done.and_then(|_| Err(error(injected("hung after its work")))) }
            }
        }
    }

    fn turn(&self, operation: &str) -> Option<Fault> {
        let mut plan = self.lock();
        plan.calls += 1;
        let calls = plan.calls;
        let strikes = |(call, _): &(Call, Fault)| match call {
            Call::Number(number) => *number == calls,
            Call::Of(name) => *name == operation,
        };
        let struck = plan.armed.iter().position(strikes)?;
        Some(plan.armed.remove(struck).1)
    }

    /// True: the call goes on.
    fn hang(&self) -> bool {
        let mut plan = self.lock();
        let generation = plan.generation;
        plan.hung += 1;
        self.shared.changed.notify_all();
        while plan.generation == generation {
            plan = self.shared.changed.wait(plan).unwrap_or_else(PoisonError::into_inner);
        }
        plan.resumed
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.shared.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Fault, Faults};

    fn call(faults: &Faults, count: &mut u32) -> Result<u32, String> {
        faults.call(
            "count",
            || {
                *count += 1;
                Ok(*count)
            },
            |cause| cause.to_string(),
        )
    }

    #[test]
    fn the_nth_call_fails_and_no_other() {
        let (faults, mut count) = (Faults::default(), 0);
        faults.arm(2, Fault::FailBefore);
        assert_eq!(call(&faults, &mut count), Ok(1));
        assert_eq!(call(&faults, &mut count), Err("injected: count fails".to_owned()));
        assert_eq!(call(&faults, &mut count), Ok(2));
        assert!(faults.disarm());
    }

    #[test]
    fn the_next_call_of_an_operation_fails_and_no_other() {
        let (faults, mut count) = (Faults::default(), 0);
        faults.arm_next("add", Fault::FailBefore);
        assert_eq!(call(&faults, &mut count), Ok(1));
        assert!(!faults.disarm());
        faults.arm_next("count", Fault::FailBefore);
        assert!(call(&faults, &mut count).is_err());
        assert_eq!(call(&faults, &mut count), Ok(2));
    }

    #[test]
    fn a_failure_after_the_work_has_done_the_work() {
        let (faults, mut count) = (Faults::default(), 0);
        faults.arm(1, Fault::FailAfter);
        assert!(call(&faults, &mut count).is_err());
        assert_eq!(count, 1);
    }

    #[test]
    fn a_hung_call_returns_only_when_it_is_let_go() {
        for (fault, resumed) in [(Fault::HangBefore, false), (Fault::HangBefore, true), (Fault::HangAfter, true)] {
            let faults = Faults::default();
            faults.arm(1, fault);
            let other = faults.clone();
            let thread = std::thread::spawn(move || call(&other, &mut 0));
            assert!(faults.wait_until_hung(Duration::from_secs(10)));
            assert!(!thread.is_finished());
            if resumed {
                faults.resume()
            } else {
                faults.release()
            }
            assert_eq!(thread.join().unwrap().is_ok(), resumed);
        }
    }

    #[test]
    fn an_errno_is_the_cause() {
        let faults = Faults::default();
        faults.arm(1, Fault::Errno(nix::libc::EMFILE));
        let error = faults.call("open", || Ok(()), |cause| cause).unwrap_err();
        assert!(crate::is_exhausted(&*error), "{error}");
    }
}
