//! Which of a repository's GGUF files is meant.
//!
//! A repository holds one model in many formats, some of them split into several files. The user gives a file's name,
//! its tag (`Q4_K_M`), any part of the name, or nothing; where that leaves several, 4-bit comes first.

/// Formats by preference, where the request leaves a choice. The first is what others take by default, too.
const PREFERRED: [&str; 3] = ["q4_k_m", "q4_0", "q8_0"];

/// A model: its files in order, more than one where it is split.
pub(super) type Model = Vec<String>;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) files: Model,
    /// Whether no other file of the repository could fit the request better, so that a look at the cache is enough.
    pub(super) certain: bool,
}

/// Why nothing was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoChoice {
    /// None fits; these are there.
    None(Vec<String>),
    /// These fit equally well.
    Several(Vec<String>),
}

/// Picks the model that `part` stands for out of all `files` of a repository.
pub(super) fn choose<'a>(
    files: impl IntoIterator<Item = &'a str>,
    part: Option<&str>,
) -> std::result::Result<Choice, NoChoice> {
    let models = group(files);
    let (fitting, exact) = match part {
        Some(part) => fitting(&models, &part.to_lowercase()),
        None => (models.iter().filter(|m| !is_auxiliary(&m[0])).collect(), false),
    };
    if let [only] = fitting[..] {
        let certain = exact || part.is_none() && has_tag(&stem(&only[0]), PREFERRED[0]);
        return Ok(Choice { files: only.clone(), certain });
    }
    for (rank, tag) in PREFERRED.iter().enumerate() {
        let tagged: Vec<_> = fitting.iter().filter(|m| has_tag(&stem(&m[0]), tag)).collect();
        if let [only] = tagged[..] {
            return Ok(Choice { files: (*only).clone(), certain: part.is_none() && rank == 0 });
        }
    }
    let names = |models: &[&Model]| models.iter().map(|m| m[0].clone()).collect();
    match fitting[..] {
        [] => Err(NoChoice::None(names(&models.iter().collect::<Vec<_>>()))),
        _ => Err(NoChoice::Several(names(&fitting))),
    }
}

/// The models that fit, from the strictest meaning of `part` that any fits; and whether that is an exact one.
fn fitting<'m>(models: &'m [Model], part: &str) -> (Vec<&'m Model>, bool) {
    let is_file = |m: &Model| {
        let path = m[0].to_lowercase();
        path == part || base_name(&path) == part || stem(&path) == part
    };
    let is_tagged = |m: &Model| !is_auxiliary(&m[0]) && has_tag(&stem(&m[0]), part);
    let contains = |m: &Model| !is_auxiliary(&m[0]) && m[0].to_lowercase().contains(part);
    let all = |fits: &dyn Fn(&Model) -> bool| models.iter().filter(|m| fits(m)).collect::<Vec<_>>();
    let exact = [all(&is_file), all(&is_tagged)].into_iter().find(|found| !found.is_empty());
    match exact {
        Some(found) => (found, true),
        None => (all(&contains), false),
    }
}

/// GGUF files, sorted, those of a split model together. Split models that are not complete are left out.
fn group<'a>(files: impl IntoIterator<Item = &'a str>) -> Vec<Model> {
    let mut files: Vec<_> = files.into_iter().filter(|f| f.to_lowercase().ends_with(".gguf")).collect();
    files.sort_unstable();
    let mut models: Vec<Model> = Vec::new();
    for file in files.iter() {
        match split_number(file) {
            None => models.push(vec![(*file).into()]),
            Some((1, n_files)) => {
                let head = &file[..file.len() - SPLIT_LEN];
                let parts: Model = (1..=n_files).map(|i| format!("{head}-{i:05}-of-{n_files:05}.gguf")).collect();
                if parts.iter().all(|p| files.binary_search(&p.as_str()).is_ok()) {
                    models.push(parts);
                }
            }
            Some(_) => {}
        }
    }
    models
}

/// Length of `-00001-of-00003.gguf`.
const SPLIT_LEN: usize = 20;

/// `(i, n)` of a file that is the i-th of n, counted from 1.
fn split_number(file: &str) -> Option<(u32, u32)> {
    let end = file.get(file.len().checked_sub(SPLIT_LEN)?..)?.strip_suffix(".gguf")?;
    let (i, n) = end.strip_prefix('-')?.split_once("-of-")?;
    Some((i.parse().ok()?, n.parse().ok()?)).filter(|_| i.len() == 5 && n.len() == 5)
}

fn base_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Lower-case name without folder, split number and `.gguf`.
fn stem(path: &str) -> String {
    let name = base_name(path);
    let end = split_number(name).map_or(5, |_| SPLIT_LEN);
    name[..name.len() - end].to_lowercase()
}

/// Whether the name ends with `tag` as a word of its own.
fn has_tag(stem: &str, tag: &str) -> bool {
    stem.strip_suffix(tag).is_some_and(|head| head.is_empty() || head.ends_with(['-', '.', '_']))
}

/// Vision projectors and importance matrices are GGUF files, too, but no language models.
fn is_auxiliary(path: &str) -> bool {
    let name = base_name(path).to_lowercase();
    name.contains("mmproj") || name.contains("imatrix")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [&str; 9] = [
        "README.md",
        "M-IQ4_XS.gguf",
        "M-Q4_K_M.gguf",
        "M-Q4_K_S.gguf",
        "M-Q8_0.gguf",
        "M.F16-00001-of-00002.gguf",
        "M.F16-00002-of-00002.gguf",
        "M.F32-00001-of-00002.gguf",
        "mmproj-M-F16.gguf",
    ];

    fn choice(part: Option<&str>) -> (Vec<String>, bool) {
        let c = choose(FILES, part).expect("one model is meant");
        (c.files, c.certain)
    }

    #[test]
    fn nothing_asked_takes_four_bits() {
        assert_eq!(choice(None), (vec!["M-Q4_K_M.gguf".into()], true));
        let without = choose(["M-Q4_K_S.gguf", "M-Q8_0.gguf"], None).expect("Q8_0 is preferred");
        assert_eq!(without, Choice { files: vec!["M-Q8_0.gguf".into()], certain: false });
    }

    #[test]
    fn tags_are_words_and_come_before_parts() {
        assert_eq!(choice(Some("Q8_0")), (vec!["M-Q8_0.gguf".into()], true));
        assert_eq!(choice(Some("q4_k_s")), (vec!["M-Q4_K_S.gguf".into()], true));
        assert_eq!(choice(Some("Q4")), (vec!["M-Q4_K_M.gguf".into()], false));
        assert_eq!(choice(Some("M-IQ4_XS.gguf")), (vec!["M-IQ4_XS.gguf".into()], true));
        assert_eq!(choice(Some("mmproj-M-F16.gguf")).0, ["mmproj-M-F16.gguf"]);
    }

    #[test]
    fn split_models_come_whole_or_not_at_all() {
        let (files, certain) = choice(Some("f16"));
        assert_eq!(files, ["M.F16-00001-of-00002.gguf", "M.F16-00002-of-00002.gguf"]);
        assert!(certain);
        assert!(matches!(choose(FILES, Some("F32")), Err(NoChoice::None(_))));
    }

    #[test]
    fn a_tie_lists_what_there_is() {
        let tie = choose(["a-Q4_K_M.gguf", "b-Q4_K_M.gguf", "b-Q2_K.gguf"], Some("q4"));
        assert_eq!(tie, Err(NoChoice::Several(vec!["a-Q4_K_M.gguf".into(), "b-Q4_K_M.gguf".into()])));
        assert_eq!(choose(["x.bin"], None), Err(NoChoice::None(vec![])));
    }
}
