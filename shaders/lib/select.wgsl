//! select — the k best of any number of candidates, by bisecting for the rank of the k-th.
//!
//! exports  Selection, select_best, is_selected
//! needs    element(j)  of the kernel: its j-th candidate, the same at each call
//! const    WG  of the kernel
//! import   candidate
//! note     holds barriers: to be called once, in uniform control flow; costs 16 passes over the candidates whatever k is, and as many
//!          again only where the k-th best logit is there more than once

/// Candidates of at least this rank.
struct Selection { bound: u32, tied: u32 }

/// For each of 2 × 16 passes, how many candidates reach its three bounds.
var<workgroup> select_counts: array<atomic<u32>, 96>;
var<workgroup> select_tied: u32;

/// Orders candidates by key; or, where `tied` is a key, those that have it by id, and better ones above them.
fn select_rank(c: Candidate, tied: u32) -> u32 {
    let by_id = select(select(0u, ~c.id, c.key == tied), 0xffffffffu, c.key > tied);
    return select(by_id, c.key, tied == 0u);
}

/// The rank of the j-th of n candidates, 0 behind the last.
fn select_rank_of(j: u32, n: u32, tied: u32) -> u32 {
    return select(0u, select_rank(element(min(j, n - 1u)), tied), j < n);
}

fn is_selected(c: Candidate, selection: Selection) -> bool {
    return select_rank(c, selection.tied) >= selection.bound;
}

/// Selects the k best of n, or all if they are fewer.
fn select_best(n: u32, k: u32, i: u32) -> Selection {
    for (var c = i; c < 96u; c += WG) {
        atomicStore(&select_counts[c], 0u);
    }
    workgroupBarrier();
    var selection = Selection(0u, 0u);
    for (var phase = 0u; phase < 2u; phase++) {
        // 1. the largest rank that k candidates reach, two bits a round
        var bound = 0u;
        var reached = 0u;
        for (var round = 0u; round < 16u; round++) {
            let step = 0x40000000u >> (2u * round);
            var one = vec4<u32>(0u);
            var two = vec4<u32>(0u);
            var three = vec4<u32>(0u);
            // Four at a time, so that their loads are under way together.
            for (var j = i; j < n; j += 4u * WG) {
                let rank = vec4<u32>(
                    select_rank_of(j, n, selection.tied),
                    select_rank_of(j + WG, n, selection.tied),
                    select_rank_of(j + 2u * WG, n, selection.tied),
                    select_rank_of(j + 3u * WG, n, selection.tied),
                );
                one += select(vec4<u32>(0u), vec4<u32>(1u), rank >= vec4<u32>(bound + step));
                two += select(vec4<u32>(0u), vec4<u32>(1u), rank >= vec4<u32>(bound + 2u * step));
                three += select(vec4<u32>(0u), vec4<u32>(1u), rank >= vec4<u32>(bound + 3u * step));
            }
            let at = 48u * phase + 3u * round;
            atomicAdd(&select_counts[at], one.x + one.y + one.z + one.w);
            atomicAdd(&select_counts[at + 1u], two.x + two.y + two.z + two.w);
            atomicAdd(&select_counts[at + 2u], three.x + three.y + three.z + three.w);
            workgroupBarrier();
            for (var third = 0u; third < 3u; third++) {
                let count = atomicLoad(&select_counts[at + third]);
                if count >= k {
                    bound += step;
                    reached = count;
                }
            }
        }
        // Rank 0 is that of no candidate.
        selection.bound = max(bound, 1u);

        // 2. more than k reach it: those that are tied there once more, by id
        if i == 0u {
            select_tied = select(0u, bound, reached > k);
        }
        let tied = workgroupUniformLoad(&select_tied);
        if tied == 0u {
            break;
        }
        selection.tied = tied;
    }
    return selection;
}
