//! Tasks that each wait for one call before the next.

use std::time::{Duration, Instant};

/// How long `iterations` calls take, shared by `callers` tasks; each call is given a number of its own, from zero on.
pub(crate) async fn timed<F>(
    iterations: u64,
    callers: u64,
    call: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    // A whole number each; what is more than was asked for is taken off the time.
    let (iterations, callers) = (u32::try_from(iterations).unwrap(), u32::try_from(callers).unwrap());
    let each = iterations.div_ceil(callers);
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let call = call.clone();
            tokio::spawn(async move {
                for at in 0..each {
                    call(u64::from(caller * each + at)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    start.elapsed().mul_f64(f64::from(iterations) / f64::from(each * callers))
}
