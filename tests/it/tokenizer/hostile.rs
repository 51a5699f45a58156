//! Vocabularies that nobody made to be used: whatever a file says, it is refused or works.

use halfbyte::tokenizer::{self, VocabSource};
use proptest::prelude::*;

proptest! {
    #[test]
    fn hostile_vocabularies_do_not_panic(h in hostile(), text in "[abc ▁é<>0xs]{0,20}") {
        if let Ok(t) = tokenizer::build(h.source()) {
            for parse_special in [false, true] {
                let ids = t.encode(&text, parse_special).expect("short text can be encoded");
                prop_assert!(t.decode(&ids).is_ok());
            }
            prop_assert!(t.encode_prompt(&text).is_ok());
            prop_assert!(t.special().eog.iter().all(|&id| (id as usize) < t.n_vocab()));
        }
    }
}

/// An owned [`VocabSource`].
#[derive(Debug)]
struct Hostile {
    model: &'static str,
    model_name: Option<&'static str>,
    tokens: Vec<Vec<u8>>,
    token_type: Option<Vec<i32>>,
    scores: Option<Vec<f32>>,
    merges: Option<Vec<Vec<u8>>>,
    special: [Option<u32>; 3],
    flags: [Option<bool>; 3],
}

impl Hostile {
    fn source(&self) -> VocabSource<'_> {
        VocabSource {
            model: self.model,
            model_name: self.model_name,
            pre: None,
            tokens: self.tokens.iter().map(Vec::as_slice).collect(),
            token_type: self.token_type.clone(),
            scores: self.scores.clone(),
            merges: self.merges.as_ref().map(|m| m.iter().map(Vec::as_slice).collect()),
            bos_token_id: self.special[0],
            eos_token_id: self.special[1],
            unknown_token_id: self.special[2],
            add_bos_token: self.flags[0],
            add_eos_token: self.flags[1],
            add_space_prefix: self.flags[2],
            ..VocabSource::default()
        }
    }
}

/// Mostly small vocabularies that nearly fit together, so that a good part can be built.
fn hostile() -> impl Strategy<Value = Hostile> {
    let token = prop_oneof![
        90 => "[abc▁Ġé]{1,4}".prop_map(String::into_bytes),
        9 => "<(0x[0-9A-Fa-f]{2}|s|/s|mask|\\|im_end\\|)>".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let tokens = prop::collection::hash_set(token, 0..24).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    tokens.prop_flat_map(|mut tokens| {
        tokens.sort();
        let n = tokens.len();
        let kind = prop_oneof![60 => Just(1), 2 => Just(3), 2 => Just(4), 2 => Just(2), 1 => -1..8];
        let len = prop_oneof![9 => Just(n), 1 => 0..30usize];
        let types = len.clone().prop_flat_map(move |len| prop::collection::vec(kind.clone(), len));
        let score = prop_oneof![Just(0.0), -5.0f32..5.0, any::<f32>()];
        let scores = len.prop_flat_map(move |len| prop::collection::vec(score.clone(), len));
        let any_merge = prop_oneof![
            "[abc▁Ġé]{0,3} [abc▁Ġé]{0,3}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..6)
        ];
        let any_merges = prop::collection::vec(any_merge, 0..4);
        let id = prop::option::of(prop_oneof![9 => 0..n.max(1) as u32, 1 => any::<u32>()]);
        let rest = (
            prop::option::weighted(0.9, types),
            prop::option::weighted(0.9, scores),
            prop_oneof![9 => Just(Some(true_merges(&tokens))), 3 => any_merges.prop_map(Some), 1 => Just(None)],
            prop::array::uniform3(id),
            prop::array::uniform3(any::<Option<bool>>()),
        );
        let model = prop_oneof![Just("gpt2"), Just("gemma4"), Just("llama")];
        let model_name = prop::option::of(prop_oneof![Just("Phi-3"), Just("modern-bert")]);
        (model, model_name, Just(tokens), rest).prop_map(|(model, model_name, tokens, rest)| {
            let (token_type, scores, merges, special, flags) = rest;
            Hostile { model, model_name, tokens, token_type, scores, merges, special, flags }
        })
    })
}

/// Every merge of two tokens to a third.
fn true_merges(tokens: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let pairs = tokens.iter().flat_map(|l| tokens.iter().map(move |r| (l, r)));
    pairs.filter(|(l, r)| tokens.contains(&[&l[..], r].concat())).map(|(l, r)| [&l[..], b" ", r].concat()).collect()
}
