//! Work on several CPUs.

use std::{num::NonZero, panic::resume_unwind, thread};

/// What `work` makes of each of `all`, in their order: on as many threads as there are CPUs, and no more than `worth_while`.
pub fn side_by_side<T: Sync, R: Send>(all: &[T], worth_while: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let of_part = |part: &[T]| part.iter().map(&work).collect::<Vec<_>>();
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cpus.min(worth_while).clamp(1, all.len().max(1));
    let (first, others) = all.split_at(all.len() / threads);
    if others.is_empty() || threads == 1 {
        return of_part(all);
    }
    thread::scope(|scope| {
        let others = others.chunks(others.len().div_ceil(threads - 1));
        let others: Vec<_> = others.map(|part| scope.spawn(move || of_part(part))).collect();
        let mut done = of_part(first);
        for other in others {
            done.append(&mut other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_done_in_order_however_many_threads_there_are() {
        for length in [0, 1, 2, 3, 7, 100] {
            let all: Vec<u32> = (0..length).collect();
            for threads in [0, 1, 2, 3, 200] {
                assert_eq!(side_by_side(&all, threads, |one| one + 1), (1..=length).collect::<Vec<_>>());
            }
        }
    }
}
