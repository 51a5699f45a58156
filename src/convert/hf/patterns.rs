//! What config.json says layer by layer: windows, layers without positions, layers without experts. Readers of GGUF know a pattern of each
//! family; another one is a key where there is one, a note where only long contexts differ, and else an error.

use serde_json::Value as Json;

use super::keys::Keys;
use crate::convert::json::Object;
use crate::convert::source::lost_window;
use crate::error::Result;

/// Of each layer whether it has a sliding window, where config.json says so.
fn layer_types(c: &Object) -> Result<Option<Vec<bool>>> {
    let Some(types) = c.opt_array("layer_types")? else { return Ok(None) };
    let sliding = types.iter().map(|layer| match layer.as_str()? {
        "sliding_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    });
    let sliding: Option<Vec<bool>> = sliding.collect();
    let sliding = sliding.filter(|layers| layers.len() == n_layer(c).unwrap_or(0));
    let expected = "sliding_attention or full_attention for each layer";
    sliding.map(Some).ok_or_else(|| c.bad("layer_types", expected))
}

fn n_layer(c: &Object) -> Result<usize> {
    Ok(c.count("num_hidden_layers")? as usize)
}

/// Whether each layer is none of every n-th ones.
fn all_but_every(n: usize, n_layer: usize) -> Vec<bool> {
    (1..=n_layer).map(|layer| !layer.is_multiple_of(n)).collect()
}

/// Windows in all layers but every `n`-th, or in those that config.json says.
pub(super) fn windows(c: &Object, keys: &mut Keys, n: usize) -> Result<()> {
    keys.set("attention.sliding_window", c.count("sliding_window")?);
    let n_layer = n_layer(c)?;
    let usual = all_but_every(n, n_layer);
    let pattern = ["sliding_window_pattern", "_sliding_window_pattern"].into_iter().find(|key| c.get(key).is_some());
    let layers = match (layer_types(c)?, pattern) {
        (Some(layers), _) => layers,
        (None, Some(key)) => all_but_every(c.count(key)? as usize, n_layer),
        (None, None) => return Ok(()),
    };
    if layers != usual {
        let key = "attention.sliding_window_pattern";
        // A number where that says it, since more readers know numbers.
        match (1..=n_layer + 1).find(|&n| all_but_every(n, n_layer) == layers) {
            Some(n) => keys.set(key, n as u32),
            None => keys.set(key, &layers[..]),
        }
    }
    Ok(())
}

/// Notes that there are windows, in a family whose files have none: in layers from `max_window_layers` on, if config.json says
/// `use_sliding_window`, or nothing and `usual` is set.
pub(super) fn lost_windows(c: &Object, keys: &mut Keys, usual: bool) -> Result<()> {
    let Some(window) = c.opt_count("sliding_window")? else { return Ok(()) };
    let first = c.opt_count("max_window_layers")?.unwrap_or(0) as usize;
    let any = match layer_types(c)? {
        Some(layers) => layers.contains(&true),
        None => first < n_layer(c)?,
    };
    if any && c.opt_bool("use_sliding_window")?.unwrap_or(usual) && window < c.count("max_position_embeddings")? {
        keys.notes.push(lost_window(window));
    }
    Ok(())
}

/// Fails unless all layers but every `n`-th have positions, which is what files of the family are read as.
pub(super) fn positions(c: &Object, n: usize) -> Result<()> {
    let n_layer = n_layer(c)?;
    let (key, layers) = match c.opt_array("no_rope_layers")? {
        Some(layers) => ("no_rope_layers", layers.iter().map(|layer| layer.as_u64() == Some(1)).collect()),
        None => ("no_rope_layer_interval", {
            let interval = c.opt_count("no_rope_layer_interval")?.map_or(n, |interval| interval as usize);
            all_but_every(interval.max(1), n_layer)
        }),
    };
    match layers == all_but_every(n, n_layer) {
        true => Ok(()),
        false => Err(c.beyond(key, &format!("positions in all but every {n}th layer"))),
    }
}

/// Layers with a feed-forward layer in place of experts, which have to be the first ones.
pub(super) fn dense_layers(c: &Object, keys: &mut Keys) -> Result<()> {
    let step = c.opt_count("decoder_sparse_step")?.unwrap_or(1).max(1) as usize;
    let named = c.opt_array("mlp_only_layers")?.unwrap_or_default();
    let is_dense = |il: &usize| !(il + 1).is_multiple_of(step) || named.contains(&Json::from(*il));
    let dense: Vec<usize> = (0..n_layer(c)?).filter(is_dense).collect();
    if dense.iter().enumerate().any(|(i, &il)| i != il) {
        let key = if step > 1 { "decoder_sparse_step" } else { "mlp_only_layers" };
        return Err(c.beyond(key, "experts in all layers but the first ones"));
    }
    if !dense.is_empty() {
        keys.set("leading_dense_block_count", dense.len() as u32);
    }
    Ok(())
}
