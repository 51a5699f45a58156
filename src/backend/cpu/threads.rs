//! A fork-join pool for ops of a few microseconds: threads spin briefly between jobs, then sleep.
//!
//! A step of a small model forks hundreds of times, so that a job must start within a microsecond and may not wait
//! for a thread that the system has put aside. Tasks of a job are therefore handed out one by one, and a worker takes
//! part in a job only if it comes while there is one: the caller works too, and closes the job when no task is left.
//! A worker whose core is taken by another program while it has a task makes all wait: it stays away for a while.
//! Each thread owns scratch memory of one planned size, which it lends to its tasks.

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::absence::Absence;
use super::ahead::{Ahead, Fetch};

/// Looks at the state before a worker sleeps: tens of microseconds, the gap between two steps.
const SPINS: usize = 4_000;
/// A job waits at least so long for a worker before it is late. Less is the system's own business.
const LATE: Duration = Duration::from_micros(200);
/// Sleepers that each thread wakes, and each of these as many: no thread wakes them all by itself.
const WAKES: usize = 2;

/// A job is running, workers may enter.
const OPEN: u64 = 1 << 31;
/// The pool is going away.
const QUIT: u64 = 1 << 30;
/// Bits that count the workers inside the job.
const INSIDE: u64 = QUIT - 1;
/// The number of the job.
const EPOCH_SHIFT: u32 = 32;

/// What a job does for its task i, with the thread's scratch.
type Task<'a> = dyn Fn(usize, &mut [f32]) + Sync + 'a;

/// Threads that run the tasks of one job at a time.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    scratch: Vec<f32>,
}

struct Shared {
    /// `epoch << 32 | OPEN | QUIT | workers inside`: one word, so that entering a job and its being open are one event.
    state: Line<AtomicU64>,
    /// Written only while the state is closed and nobody is inside.
    job: UnsafeCell<Option<Job>>,
    /// The next task to hand out.
    next: Line<AtomicUsize>,
    /// The first panic of a worker's task, and whether there is one: a look at that is cheaper than the lock.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    panicked: AtomicBool,
    /// Held by a worker from its last look at the state until it sleeps, so that it misses no wake-up.
    lock: Mutex<()>,
    wake: Condvar,
    sleeping: AtomicUsize,
    /// The last job that waited for those inside longer than it took to work.
    late: AtomicU64,
    /// What to fetch while waiting.
    ahead: Ahead,
}

/// Alone on its cache line (on two, since processors fetch lines in pairs): all threads write these words all the time, and
/// would take what lies beside them away from each other.
#[repr(align(128))]
struct Line<T>(T);

impl<T> std::ops::Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[derive(Clone, Copy)]
struct Job {
    n_tasks: usize,
    /// Borrowed by the caller of [`Pool::run`], which does not return before all workers have left.
    task: *const Task<'static>,
    /// The group of ops that this is, if what follows it is to be fetched.
    group: Option<usize>,
}

// SAFETY: `job` is written only by the one caller (`Pool::run` takes `&mut self`) while the state is closed with nobody
// inside, and read only by workers that entered an open job; `state` orders the two. The task itself is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is used only while its target is borrowed.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads`, the caller's own among them, each with `scratch_len` numbers of scratch, which fetch `ahead` while they
    /// wait.
    pub(super) fn new(threads: usize, scratch_len: usize, ahead: Ahead) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Line(AtomicU64::new(0)),
            job: UnsafeCell::new(None),
            next: Line(AtomicUsize::new(0)),
            panic: Mutex::new(None),
            panicked: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            sleeping: AtomicUsize::new(0),
            late: AtomicU64::new(0),
            ahead,
        });
        let mut pool = Self { shared, workers: Vec::new(), scratch: vec![0.0; scratch_len] };
        for i in 1..threads {
            let shared = pool.shared.clone();
            let worker = std::thread::Builder::new().name(format!("cpu {i}"));
            pool.workers.push(worker.spawn(move || shared.work_until_quit(i, &mut vec![0.0; scratch_len]))?);
        }
        Ok(pool)
    }

    /// Calls `task(i, scratch)` once for each i below `n_tasks`, on any thread and in any order, and waits for all.
    ///
    /// # Panics
    /// If a task does.
    pub(crate) fn run(&mut self, n_tasks: usize, task: &Task<'_>) {
        self.run_group(None, n_tasks, task);
    }

    /// The same for a group of ops, after which threads fetch what [`Ahead`] says.
    ///
    /// # Panics
    /// If a task does.
    pub(super) fn run_group(&mut self, group: Option<usize>, n_tasks: usize, task: &Task<'_>) {
        if n_tasks <= 1 || self.workers.is_empty() {
            (0..n_tasks).for_each(|i| task(i, &mut self.scratch));
            return;
        }
        let shared = &*self.shared;
        let job = Job { n_tasks, task: erase_lifetime(task), group };
        // SAFETY: the job before this one was closed and left by all (`Open::drop`), and `&mut self` keeps out others.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        // Of two panics in one job only one was passed on.
        drop(shared.take_panic());
        let epoch = (shared.state.load(Ordering::Relaxed) >> EPOCH_SHIFT) as u32;
        let opened = Instant::now();
        shared.state.store(u64::from(epoch.wrapping_add(1)) << EPOCH_SHIFT | OPEN, Ordering::SeqCst);
        let open = Open { shared, opened, group };
        shared.wake_some();
        shared.work(n_tasks, task, &mut self.scratch);
        drop(open);
        if let Some(panic) = shared.take_panic() {
            resume_unwind(panic);
        }
    }

    /// Cuts `out` into chunks of `chunk_len` (the last may be shorter) and calls `task(i, chunk, scratch)` for each.
    pub(crate) fn chunks(
        &mut self,
        out: &mut [f32],
        chunk_len: usize,
        task: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    ) {
        let len = out.len();
        let start = Shareable(out.as_mut_ptr());
        self.run(len.div_ceil(chunk_len), &|i, scratch| {
            let at = i * chunk_len;
            // SAFETY: the chunk lies within `out`, which is borrowed until `run` returns; each i comes once, and the
            // chunks of different i don't overlap.
            let chunk = unsafe { std::slice::from_raw_parts_mut(start.get().add(at), chunk_len.min(len - at)) };
            task(i, chunk, scratch);
        });
    }

    /// Cuts the matrix `out` `[T, width]` into blocks of up to `n` columns and calls `task(block, scratch)` for each.
    pub(crate) fn columns(
        &mut self,
        out: &mut [f32],
        width: usize,
        n: usize,
        task: impl Fn(&mut Columns<'_>, &mut [f32]) + Sync,
    ) {
        self.matrices(&mut [Matrix { data: out, width }], n, |_, columns, scratch| task(columns, scratch));
    }

    /// Cuts each of the matrices `outs` into blocks of up to `n` columns and calls `task(which, block, scratch)` for each.
    pub(crate) fn matrices(
        &mut self,
        outs: &mut [Matrix<'_>],
        n: usize,
        task: impl Fn(usize, &mut Columns<'_>, &mut [f32]) + Sync,
    ) {
        let n_tasks = |out: &Matrix<'_>| out.width.div_ceil(n);
        let total = outs.iter().map(n_tasks).sum();
        let parts = Parts::new(outs);
        self.run(total, &|mut i, scratch| {
            let mut which = 0;
            while i >= n_tasks(&outs[which]) {
                i -= n_tasks(&outs[which]);
                which += 1;
            }
            let columns = i * n..outs[which].width.min(i * n + n);
            // SAFETY: each i comes once, and the columns of different i don't overlap.
            task(which, &mut unsafe { parts.columns(which, columns) }, scratch);
        });
    }

    /// Calls `task` once for each item.
    pub(crate) fn each<T: Send>(&mut self, items: Vec<T>, task: impl Fn(T) + Sync) {
        let items: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.run(items.len(), &|i, _| {
            let item = items[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            item.into_iter().for_each(&task);
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.fetch_or(QUIT, Ordering::SeqCst);
        drop(self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // It may be absent.
            worker.thread().unpark();
            // A worker can't fail: the panics of its tasks are caught.
            let _ = worker.join();
        }
    }
}

/// The job is open while this lives; dropping it, in a panic too, waits until no worker uses the job any more.
struct Open<'a> {
    shared: &'a Shared,
    opened: Instant,
    group: Option<usize>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let state = &self.shared.state;
        let mut now = state.fetch_and(!OPEN, Ordering::AcqRel);
        if now & INSIDE == 0 {
            return;
        }
        let closed = Instant::now();
        let patience = LATE.max(closed - self.opened);
        let mut looks = 0;
        let mut fetch = self.shared.ahead.of(self.group, 0);
        while now & INSIDE != 0 {
            fetch.some();
            relax(&mut looks);
            if looks % SPINS == 0 && closed.elapsed() > patience {
                self.shared.late.store(now >> EPOCH_SHIFT, Ordering::Relaxed);
            }
            now = state.load(Ordering::Acquire);
        }
    }
}

impl Shared {
    fn work_until_quit(&self, thread: usize, scratch: &mut [f32]) {
        let mut seen = 0;
        let mut absence = Absence::default();
        let mut fetch = Fetch::default();
        loop {
            let state = self.wait(seen, &mut fetch);
            if state & QUIT != 0 {
                return;
            }
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            seen = state >> EPOCH_SHIFT;
            // SAFETY: this worker is inside an open job, so that nobody writes `job`, and what it borrows is alive.
            let result = unsafe {
                let job = (*self.job.get()).expect("an open job");
                fetch = self.ahead.of(job.group, thread);
                catch_unwind(AssertUnwindSafe(|| self.work(job.n_tasks, &*job.task, scratch)))
            };
            if let Err(panic) = result {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                self.panicked.store(true, Ordering::Release);
            }
            // Read before it leaves: thereafter the caller goes on to other jobs.
            let late = self.late.load(Ordering::Relaxed) == seen;
            self.state.fetch_sub(1, Ordering::Release);
            if late && let Some(until) = absence.after_late_job(Instant::now()) {
                self.stay_away(until);
            }
        }
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        if !self.panicked.load(Ordering::Acquire) {
            return None;
        }
        self.panicked.store(false, Ordering::Relaxed);
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns at that time, or when the pool goes away.
    fn stay_away(&self, until: Instant) {
        while self.state.load(Ordering::Acquire) & QUIT == 0 {
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                _ => return,
            }
        }
    }

    fn work(&self, n_tasks: usize, task: &Task<'_>, scratch: &mut [f32]) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= n_tasks {
                return;
            }
            task(i, scratch);
        }
    }

    /// Waits for a job other than `seen`, or for the end.
    fn wait(&self, seen: u64, fetch: &mut Fetch<'_>) -> u64 {
        let ready = |state: u64| state & QUIT != 0 || (state & OPEN != 0 && state >> EPOCH_SHIFT != seen);
        loop {
            for _ in 0..SPINS {
                let state = self.state.load(Ordering::Acquire);
                if ready(state) {
                    return state;
                }
                fetch.some();
                std::hint::spin_loop();
            }
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            // The caller stores the state and then reads `sleeping`; here it is the other way round, so that one of
            // the two sees the other.
            self.sleeping.fetch_add(1, Ordering::SeqCst);
            if ready(self.state.load(Ordering::SeqCst)) {
                self.sleeping.fetch_sub(1, Ordering::SeqCst);
            } else {
                drop(self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner));
                self.sleeping.fetch_sub(1, Ordering::SeqCst);
                self.wake_some();
            }
        }
    }

    /// Wakes the first sleepers, who wake others.
    fn wake_some(&self) {
        let n = self.sleeping.load(Ordering::SeqCst).min(WAKES);
        if n > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            (0..n).for_each(|_| self.wake.notify_one());
        }
    }
}

/// Waits a moment: the other thread is nearly there, unless the system has put it aside.
fn relax(looks: &mut usize) {
    *looks += 1;
    if *looks < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

fn erase_lifetime(task: &Task<'_>) -> *const Task<'static> {
    let task: *const Task<'_> = task;
    // SAFETY: only the lifetime changes; `Pool::run` keeps the borrow alive for as long as the pointer is used.
    unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) }
}

/// A matrix `[T, width]` to be written.
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) width: usize,
}

/// Matrices whose columns are dealt out to tasks.
pub(crate) struct Parts<'a> {
    matrices: Vec<(Shareable, usize, usize)>,
    data: PhantomData<&'a mut f32>,
}

impl<'a> Parts<'a> {
    /// All columns of `matrices`.
    pub(crate) fn new(matrices: &mut [Matrix<'a>]) -> Self {
        let parts = matrices
            .iter_mut()
            .map(|Matrix { data, width }| (Shareable(data.as_mut_ptr()), data.len() / *width, *width));
        Self { matrices: parts.collect(), data: PhantomData }
    }

    /// Columns of the matrix `which`.
    ///
    /// # Safety
    /// Nobody else uses these columns as long as they are used.
    pub(crate) unsafe fn columns(&self, which: usize, columns: Range<usize>) -> Columns<'a> {
        let (start, n_rows, width) = self.matrices[which];
        assert!(columns.end <= width, "columns {columns:?} of {width}");
        Columns { start: start.get(), n_rows, width, columns, rows: None, data: PhantomData }
    }

    /// Columns of some rows of the matrix `which`, as if there were no others.
    ///
    /// # Safety
    /// Nobody else uses these columns of these rows as long as they are used.
    pub(crate) unsafe fn columns_of_rows(&self, which: usize, rows: &'a [u32], columns: Range<usize>) -> Columns<'a> {
        // SAFETY: as the caller promises.
        let all = unsafe { self.columns(which, columns) };
        assert!(rows.iter().all(|&row| (row as usize) < all.n_rows), "rows {rows:?} of {}", all.n_rows);
        Columns { n_rows: rows.len(), rows: Some(rows), ..all }
    }
}

/// Some columns of a matrix `[T, width]`, for one thread to write; other threads have the others.
pub(crate) struct Columns<'a> {
    start: *mut f32,
    n_rows: usize,
    width: usize,
    columns: Range<usize>,
    /// Which rows these are, if not the first ones.
    rows: Option<&'a [u32]>,
    data: PhantomData<&'a mut f32>,
}

impl Columns<'_> {
    /// Which columns.
    pub(crate) fn range(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Rows of the matrix.
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The same columns of row t in another matrix of the same shape.
    pub(crate) fn row_of<'m>(&self, matrix: &'m [f32], t: usize) -> &'m [f32] {
        &matrix[self.place(t) * self.width..][self.columns.clone()]
    }

    /// These columns of row t.
    #[inline(always)]
    pub(crate) fn row(&mut self, t: usize) -> &mut [f32] {
        assert!(t < self.n_rows, "row {t} of {}", self.n_rows);
        // SAFETY: in bounds by the assertion, and nobody else has these columns.
        unsafe {
            let start = self.start.add(self.place(t) * self.width + self.columns.start);
            std::slice::from_raw_parts_mut(start, self.columns.len())
        }
    }

    /// Writes column m of row t.
    #[inline(always)]
    pub(crate) fn set(&mut self, t: usize, m: usize, value: f32) {
        assert!(t < self.n_rows && self.columns.contains(&m), "[{t}, {m}] is not in columns {:?}", self.columns);
        // SAFETY: in bounds by the assertion, and `Pool::columns` gives each column to one task only.
        unsafe { self.start.add(self.place(t) * self.width + m).write(value) };
    }

    /// Where row t lies in the matrix.
    #[inline(always)]
    fn place(&self, t: usize) -> usize {
        self.rows.map_or(t, |rows| rows[t] as usize)
    }
}

/// A pointer that may go to other threads; whoever uses it keeps them apart.
#[derive(Clone, Copy)]
struct Shareable(*mut f32);

impl Shareable {
    fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: a pointer by itself does nothing; each use says why it is the only one.
unsafe impl Sync for Shareable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads, 3, Ahead::default()).expect("threads start");
            for n in [0, 1, 2, 100] {
                let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                // Often, since the races that could lose a task are rare.
                for _ in 0..2_000 {
                    pool.run(n, &|i, scratch| {
                        assert_eq!(scratch.len(), 3);
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 2_000));
            }
        }
    }

    #[test]
    fn all_workers_wake_up_after_a_pause() {
        for threads in [2, 9] {
            let mut pool = Pool::new(threads, 0, Ahead::default()).expect("threads start");
            for _ in 0..5 {
                while pool.shared.sleeping.load(Ordering::SeqCst) < threads - 1 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // All tasks last until all have begun: without each of the workers this would hang.
                let begun = AtomicUsize::new(0);
                pool.run(threads, &|_, _| {
                    begun.fetch_add(1, Ordering::SeqCst);
                    while begun.load(Ordering::SeqCst) < threads {
                        std::thread::yield_now();
                    }
                });
            }
        }
    }

    #[test]
    fn a_worker_that_stays_away_comes_back_and_the_pool_goes_without_it() {
        let pool = Pool::new(1, 0, Ahead::default()).expect("the caller's own thread");
        let begin = Instant::now();
        pool.shared.stay_away(begin + Duration::from_millis(5));
        assert!(begin.elapsed() >= Duration::from_millis(5));
        let shared = pool.shared.clone();
        drop(pool);
        let begin = Instant::now();
        shared.stay_away(begin + Duration::from_secs(60));
        assert!(begin.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn chunks_cover_everything_and_the_last_may_be_short() {
        let mut pool = Pool::new(3, 0, Ahead::default()).expect("threads start");
        let mut data = vec![0.0; 1_000];
        pool.chunks(&mut data, 33, |i, chunk, _| {
            for (j, x) in chunk.iter_mut().enumerate() {
                *x += (i * 33 + j) as f32;
            }
        });
        assert!(data.iter().enumerate().all(|(i, &x)| x == i as f32));
    }

    #[test]
    fn columns_are_those_of_the_matrix() {
        let mut pool = Pool::new(2, 0, Ahead::default()).expect("threads start");
        let mut data = vec![0.0; 3 * 50];
        pool.columns(&mut data, 50, 7, |block, _| {
            for t in 0..3 {
                block.range().for_each(|m| block.set(t, m, (t * 50 + m) as f32));
            }
        });
        assert!(data.iter().enumerate().all(|(i, &x)| x == i as f32));
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2, 0, Ahead::default()).expect("threads start");
        for _ in 0..50 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, &|i, _| assert_ne!(i, 40, "task 40 fails"));
            }));
            assert!(result.is_err());
            pool.run(64, &|_, _| {});
        }
    }
}
