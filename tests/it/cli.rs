//! Tests of the command line as a user meets it: what goes to standard output, what to standard error, exit codes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use halfbyte::gguf::GgufWriter;
use insta::assert_snapshot;
use serde_json::Value;

use crate::common::{golden, real_model};

mod eval;

const MOON: &str = "The first man on the moon was";

/// The program, without what the user's environment would tell it.
fn halfbyte() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halfbyte"));
    command.env_remove("HALFBYTE_MODEL").env_remove("HALFBYTE_DEVICE").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// `generate` on the CPU, with SmolLM2.
fn generate() -> Command {
    let mut command = halfbyte();
    command.args(["generate", "--device", "cpu", "-t", "2", "-m"]).arg(real_model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    command
}

fn tiny() -> String {
    golden("tiny/llama-q4_0.gguf").display().to_string()
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

fn run_with_input(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// Standard output of a run that ends well, and says nothing else.
fn stdout(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Exit code and standard error of a run that fails, and prints nothing.
fn failure(output: Output) -> (Option<i32>, String) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

fn json(output: Output) -> Value {
    serde_json::from_str(&stdout(output)).expect("one JSON object")
}

fn golden_json(name: &str) -> Value {
    let text = std::fs::read_to_string(golden(name)).expect("golden data");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn generate_continues_the_text_as_llama_cpp_does() {
    let expected = golden_json("smollm2-moon.json");
    let n = expected["greedy"].as_array().expect("ids").len().to_string();
    let text = stdout(run(generate().args(["-n", &n, MOON])));
    assert_eq!(text, expected["greedy_text"].as_str().expect("a text"));
}

#[test]
fn the_prompt_comes_from_an_option_a_file_or_standard_input() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), MOON).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let expected = " named Neil Armstrong.";
    assert_eq!(stdout(run(generate().args(["-n", "4", "--prompt", MOON]))), expected);
    assert_eq!(stdout(run(generate().args(["-n", "4", "-f", path]))), expected);
    std::fs::write(file.path(), format!("{MOON}\n")).expect("written");
    assert_eq!(stdout(run(generate().args(["-n", "4", "-f", path]))), expected);
    assert_eq!(stdout(run_with_input(generate().args(["-n", "4"]), &format!("{MOON}\n"))), expected);
    assert_eq!(stdout(run_with_input(generate().args(["-n", "4"]), MOON)), expected);
    assert_eq!(stdout(run_with_input(generate().args(["-n", "4", "-"]), MOON)), expected);
}

/// `chat` on the CPU, with SmolLM2, always with the most likely answers.
fn chat() -> Command {
    let mut command = halfbyte();
    command.arg("chat").arg(real_model("SmolLM2-135M-Instruct.Q4_1.gguf"));
    command.args(["--device", "cpu", "-t", "2", "--temp", "0"]);
    command
}

const CAPITAL: &str = "What is the capital of France?";

#[test]
fn generate_answers_once_with_chat() {
    let answer = stdout(run(generate().args(["--chat", CAPITAL])));
    assert_eq!(answer, "The capital of France is Paris.");
    assert_eq!(stdout(run_with_input(generate().args(["--chat"]), &format!("{CAPITAL}\n"))), answer);
    let out = json(run(generate().args(["--chat", "--json", "--system", "You are a cat.", CAPITAL])));
    assert_eq!(out["finish"], "end");
    let plain = json(run(generate().args(["--chat", "--json", CAPITAL])));
    assert_ne!(out["n_prompt"], plain["n_prompt"]);
}

#[test]
fn a_conversation_from_a_pipe_has_a_turn_a_line() {
    let input = format!("{CAPITAL}\n\n/system Answer in French.\n/system\n\"\"\"two\nlines\"\"\"\n/bye\nnever said\n");
    let text = stdout(run_with_input(chat().args(["-n", "12"]), &input));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["The capital of France is Paris.", "Answer in French."], "{text}");
    assert!(lines.len() > 2 && lines[2..].iter().any(|line| !line.is_empty()), "{text}");
    // Without a last newline, and to the end of the input.
    assert_eq!(stdout(run_with_input(&mut chat(), CAPITAL)), "The capital of France is Paris.\n");
    let told = run_with_input(chat().args(["-n", "4", "--verbose"]), "Hello.\nHello again.\n").stderr;
    let told = String::from_utf8(told).expect("UTF-8");
    let speeds: Vec<&str> = told.lines().filter(|line| line.contains(" · tg ")).collect();
    assert!(speeds.len() == 2 && !speeds[0].contains(" known") && speeds[1].contains(" known"), "{told}");
    let (_, stderr) = failure(run_with_input(&mut chat(), "/sytsem x\n"));
    assert_snapshot!(stderr, @"note: there is no command `/sytsem`; /help lists them");
}

#[test]
fn templates_are_chosen_by_name_or_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("template.jinja");
    std::fs::write(&path, "{{ messages[0].content }}").expect("the folder is ours");
    let of_file = stdout(run(generate().args(["-n", "4", "--chat", MOON, "--chat-template"]).arg(&path)));
    assert_eq!(of_file, " named Neil Armstrong.", "nothing but the text, as without `--chat`");
    assert_ne!(stdout(run(generate().args(["-n", "4", "--chat", "--chat-template", "alpaca", MOON]))), of_file);

    std::fs::write(&path, "{{ messages[0].content").expect("the folder is ours");
    let (code, stderr) = failure(run(generate().args(["--chat", MOON, "--chat-template"]).arg(&path)));
    assert_eq!(code, Some(1));
    assert_snapshot!(stderr, @"
    error: chat template: line 1: syntax error: unexpected end of input, expected end of variable block
    hint: name one with `--chat-template NAME|FILE`: alpaca, chatml, gemma, llama2, llama3, mistral, vicuna, zephyr
    ");
    let (code, stderr) = failure(run(generate().args(["--chat", MOON, "--chat-template", "klingon"])));
    assert_eq!(code, Some(1));
    assert_snapshot!(stderr, @"
    error: chat template: `klingon` is neither a file nor the name of one that is built in
    hint: name one with `--chat-template NAME|FILE`: alpaca, chatml, gemma, llama2, llama3, mistral, vicuna, zephyr
    ");
    let tiny_chat = ["generate", "--device", "cpu", "--chat", "hi", "-m"];
    let (code, stderr) = failure(run(halfbyte().args(tiny_chat).arg(tiny())));
    assert_eq!(code, Some(1));
    assert_snapshot!(stderr, @"
    error: chat template: llama-q4_0 has none
    hint: name one with `--chat-template NAME|FILE`: alpaca, chatml, gemma, llama2, llama3, mistral, vicuna, zephyr
    ");
    let (code, stderr) = failure(run(generate().args(["--system", "x", MOON])));
    assert_eq!(code, Some(2));
    assert_snapshot!(stderr, @"
    error: a text that is only continued has no rules and no template
    hint: to have it answered, give `--chat`
    ");
}

#[test]
fn json_has_text_tokens_and_timings() {
    let out = json(run(generate().args(["--n-predict", "4", "--ctx-size", "64", "--json", "-no-cnv", MOON])));
    assert_eq!(out["text"], " named Neil Armstrong.");
    assert_eq!(
        out["tokens"].as_array().map(|ids| &ids[..]),
        golden_json("smollm2-moon.json")["greedy"].as_array().map(|ids| &ids[..4])
    );
    assert_eq!(out["finish"], "length");
    assert_eq!((&out["n_prompt"], &out["n_generated"], &out["n_ctx"]), (&7.into(), &4.into(), &64.into()));
    assert_eq!((&out["model"], &out["threads"]), (&"SmolLM2-135M-Instruct.Q4_1".into(), &2.into()));
    assert_eq!(out["seed"], Value::Null);
    for key in ["load_seconds", "prompt_seconds", "decode_seconds", "prompt_tokens_per_second"] {
        assert!(out[key].as_f64().expect(key) > 0.0, "{key}");
    }
}

#[test]
fn stop_strings_and_a_full_context_end_the_text() {
    let out = json(run(generate().args(["--stop", "strong", "--json", MOON])));
    assert_eq!((&out["text"], &out["finish"]), (&" named Neil Arm".into(), &"stop".into()));
    let out = json(run(generate().args(["-c", "10", "--json", MOON])));
    assert_eq!((&out["n_generated"], &out["finish"]), (&3.into(), &"context".into()));
}

#[test]
fn a_seed_draws_the_same_text_again() {
    let drawn = |seed: &str| json(run(generate().args(["-n", "8", "--temp", "1.5", "-s", seed, "--json", MOON])));
    let (first, again, other) = (drawn("1"), drawn("1"), drawn("2"));
    assert_eq!(first["tokens"], again["tokens"]);
    assert_ne!(first["tokens"], other["tokens"]);
    assert_eq!(first["seed"], 1);
    // Any sampling option means that tokens are drawn, and the seed that was used is told.
    let out = json(run(generate().args(["-n", "1", "--top-p", "0.9", "--json", MOON])));
    assert!(out["seed"].is_u64());
}

#[test]
fn bench_measures_what_llama_bench_does() {
    let args = ["bench", "--device", "cpu", "-t", "1", "-r", "2", "-p", "8,0", "-n", "4", "-d", "0,40", "--json", "-m"];
    let out = json(run(halfbyte().args(args).arg(tiny())));
    assert_eq!((&out["model"], &out["architecture"]), (&"llama-q4_0".into(), &"llama".into()));
    assert_eq!((&out["device"], &out["threads"]), (&"CPU (1 thread)".into(), &1.into()));
    assert!(out["memory"]["weights_bytes"].as_u64() > Some(0));
    let rows: Vec<_> = out["results"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|r| {
            let n = |key: &str| r[key].as_u64().expect("a count");
            assert!(r["tokens_per_second"].as_f64() > Some(0.0));
            assert!(r["stddev"].as_f64() >= Some(0.0));
            assert_eq!(r["samples"].as_array().map(Vec::len), Some(2));
            (r["test"].as_str().expect("a name"), n("n_prompt"), n("n_gen"), n("depth"))
        })
        .collect();
    assert_eq!(rows, [("pp8", 8, 0, 0), ("tg4", 0, 4, 0), ("pp8 @ d40", 8, 0, 40), ("tg4 @ d40", 0, 4, 40)]);
}

#[test]
fn bench_prints_a_table() {
    let args = ["bench", "--device", "cpu", "-t", "1", "-r", "1", "-p", "0", "-n", "2", "-m"];
    let table = stdout(run(halfbyte().args(args).arg(tiny())));
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    assert_eq!(lines[0], ["", "model", "device", "test", "t/s", ""]);
    assert_eq!(lines[2][..4], ["", "llama-q4_0", "CPU (1 thread)", "tg2"]);
    assert_eq!(lines.len(), 3);
}

#[test]
fn devices_says_what_is_chosen_and_why() {
    let out = run(halfbyte().args(["devices", "--device", "cpu", "--json"]));
    let out: Value = serde_json::from_slice(&out.stdout).expect("one JSON object");
    assert_eq!((&out["chosen"], &out["reason"]), (&"cpu".into(), &"the CPU, as asked for".into()));
    assert!(out["cpu"]["threads"].as_u64() >= Some(1));
    for adapter in out["adapters"].as_array().expect("a list") {
        assert!(adapter["name"].is_string() && adapter["max_binding_bytes"].as_u64() > Some(0), "{adapter}");
    }
    let table = run(halfbyte().args(["devices", "--device", "cpu"]));
    let table = String::from_utf8(table.stdout).expect("UTF-8");
    assert!(table.lines().any(|line| line.starts_with(" *  CPU")), "{table}");
    assert!(table.ends_with("\nchosen: the CPU, as asked for\n"), "{table}");
}

#[test]
fn errors_come_with_hints() {
    let (code, stderr) = failure(run(halfbyte().args(["generate", "-m", "nowhere.gguf", "text"])));
    assert_eq!(code, Some(1));
    assert_snapshot!(stderr, @"
    error: cannot find nowhere.gguf: No such file or directory (os error 2)
    hint: check the path; models can also be named: `-m smollm2-135m`, `-m hf:OWNER/REPO`
    ");
    let not_gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let (code, stderr) = failure(run(halfbyte().args(["generate", "--device", "cpu", "text", "-m"]).arg(not_gguf)));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("not a usable GGUF file") && stderr.contains("\nhint: "), "{stderr}");

    let (code, stderr) = failure(run(generate().args(["-c", "4", MOON])));
    assert_eq!(code, Some(1));
    assert_snapshot!(stderr, @"
    error: 7 tokens and an answer do not fit the context of 4
    hint: use a larger context (`-c`) or a shorter prompt
    ");
}

#[test]
fn keys_and_values_have_one_format() {
    let mut reference = generate();
    reference.env("HALFBYTE_CPU", "reference").args(["--cache-type", "q8_0", MOON]);
    let (code, stderr) = failure(run(&mut reference));
    assert_eq!(code, Some(2));
    assert_snapshot!(stderr, @"
    error: keys and values in q8_0 with the reference kernels of the CPU
    hint: these store them in f32: leave out `--cache-type`
    ");
    let args = ["--cache-type-k", "q8_0", "--cache-type-v", "f16", MOON];
    let (code, stderr) = failure(run(generate().args(args)));
    assert_eq!(code, Some(2));
    assert_snapshot!(stderr, @"
    error: keys in one format and values in another
    hint: both are stored alike: give `--cache-type` once
    ");
    for format in ["f32", "f16", "q8_0"] {
        let alike = run(generate().args(["--cache-type-k", format, "--cache-type-v", format, "-n", "1", MOON]));
        assert!(alike.status.success(), "{format}");
    }
}

#[test]
fn files_do_not_command_the_terminal_through_errors() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("evil.gguf");
    let mut w = GgufWriter::new();
    w.set("general.architecture", "a\x1b[2Jb");
    w.create(&path).and_then(|stream| stream.finish()).expect("the folder is ours");
    let (_, stderr) = failure(run(halfbyte().args(["generate", "--device", "cpu", "text", "-m"]).arg(path)));
    assert!(stderr.contains(r"architecture `a\u{1b}[2Jb` is not supported"), "{stderr:?}");
}

#[test]
fn wrong_command_lines_are_told() {
    let (code, stderr) = failure(run(halfbyte().args(["generate", "--top-p", "2", "text"])));
    assert_eq!(code, Some(2));
    assert_snapshot!(stderr, @"
    error: invalid value '2' for '--top-p <P>': 2 is not within 0 to 1

    For more information, try '--help'.
    ");
    let (code, stderr) = failure(run(generate().arg("")));
    assert_eq!(code, Some(2));
    assert_snapshot!(stderr, @"
    error: the prompt has no tokens
    hint: give some text to continue
    ");
    for (option, value) in [("--presence-penalty", "nan"), ("--frequency-penalty", "inf"), ("--temp", "NaN")] {
        let (code, stderr) = failure(run(halfbyte().args(["generate", option, value, "text"])));
        assert_eq!(code, Some(2));
        assert!(stderr.contains("is not a finite number"), "{stderr}");
    }
}

#[test]
fn options_mean_what_they_mean_to_llama_cpp() {
    let args = ["-ngl", "0", "-ctk", "q8_0", "-ctv", "q8_0", "-c", "0", "--top-k", "-1", "--seed", "1"];
    let out = json(run(generate().args(["--json", "-n", "1"]).args(args).arg(MOON)));
    assert_eq!((&out["n_ctx"], &out["n_generated"]), (&8192.into(), &1.into()));
}

#[test]
fn what_a_context_does_to_a_text_is_told() {
    let said = |args: &[&str]| {
        let output = run(generate().args(args).arg(MOON));
        assert!(output.status.success());
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert_eq!(said(&["-c", "10"]), "note: the context is full: the text was cut (`-c` sets its size)\n");
    let note = "note: the model was trained for contexts of 8192 tokens, not of 8193\n";
    assert_eq!(said(&["-c", "8193", "-n", "1"]), note);
    assert_eq!(said(&["-c", "8192", "-n", "1"]), "");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = generate()
        .args(["-n", "50", MOON])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_after_the_token_with_code_130() {
    use std::io::Read;

    let mut child = generate().args(["-n", "2000", MOON]).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut stdout = child.stdout.take().expect("piped");
    // It is generating once the first text is here.
    stdout.read_exact(&mut [0]).expect("text");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(kill.success());
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

/// In another place than between two steps: a prompt's can last for seconds.
#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_process_at_once_while_a_prompt_is_read() {
    use std::time::{Duration, Instant};

    let prompt = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(prompt.path(), MOON.repeat(280)).expect("written");
    let mut command = generate();
    // The slowest kernels, whose steps of 512 rows last longer than the test takes.
    command.env("HALFBYTE_CPU", "reference").args(["-c", "2048", "-f"]).arg(prompt.path());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().expect("it can be asked").is_none(), "it reads its prompt");
    let start = Instant::now();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(kill.success());
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_conversation_from_a_pipe() {
    use std::io::Read;

    let mut child = chat().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"Tell me a very long story.\nnever answered\n").expect("it reads");
    child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("text");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(kill.success());
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
}

#[test]
fn help_is_short_and_has_examples() {
    let help = stdout(run(halfbyte().arg("--help")));
    assert_snapshot!(help, @r#"
    4-bit language models on any GPU

    Usage: halfbyte <COMMAND>

    Commands:
      generate    Continue a text
      chat        Talk with a model
      bench       Measure tokens per second
      compare     Find the first tensor in which two runs differ
      convert     Make a GGUF file of a model as it was published: by Hugging Face's form, or Meta's
      devices     List the devices that a model could run on, and say which one is chosen and why
      imatrix     Find out which columns of a model's matrices matter most, by reading a text with it
      inspect     Show what is in a model file: metadata, tensors, and the graph that is computed
      kernels     List the GPU kernels that models are run with
      perplexity  Measure how well a model predicts a text
      pull        Fetch models, and print where they lie
      quantize    Make a smaller model of a GGUF file, by storing its weights in a format of fewer bits

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Use `halfbyte COMMAND --help` for the options of a command.
    "#);
    let help = stdout(run(halfbyte().args(["generate", "-h"])));
    assert_snapshot!(help, @r#"
    Continue a text

    Usage: halfbyte generate [OPTIONS] [PROMPT]

    Arguments:
      [PROMPT]  The text to continue; `-` or none reads standard input

    Options:
      -f, --file <FILE>     Read the text to continue from a file
      -c, --ctx-size <N>    Context window in tokens; 0 for what the model was trained for [default:
                            that, but at most 4096]
      -n, --max-tokens <N>  Most tokens to generate; -1 for no bound but the end of the text and the
                            context window [default: 256] [alias: --n-predict]
          --stop <TEXT>     Stop before this text would be printed; may be given several times
          --json            Print one JSON object at the end, and nothing else
          --chat            Take the text as what a person says, and answer it once
      -h, --help            Print help (see more with '--help')

    Conversation:
          --system <TEXT>              The rules of the conversation [alias: --system-prompt]
          --chat-template <NAME|FILE>  How conversations are written: a file with a Jinja template, or
                                       alpaca, chatml, gemma, llama2, llama3, mistral, vicuna, zephyr
                                       [default: the template in the model file]

    Model:
      -m, --model <MODEL>      A GGUF file, `hf:OWNER/REPO[:FILE-part]`, or a name that halfbyte knows
                               [env: HALFBYTE_MODEL] [default: smollm2-135m]
          --device <DEVICE>    `auto`, `cpu`, `gpu`, or a part of an adapter's name [env:
                               HALFBYTE_DEVICE] [default: auto]
      -t, --threads <N>        Threads, on the CPU [default: one per physical core]
          --profile            Time every kernel, on a GPU that takes timestamps, and show where the
                               time goes
          --cache-type <TYPE>  How keys and values are stored: q8_0 takes half the memory of f16 and is
                               less exact [default: f16] [possible values: f16, q8_0, f32]

    Sampling:
          --temp <T>               Randomness; 0 takes the most likely token [default: 0.8 in `chat` or
                                   with another sampling option, else 0] [alias: --temperature]
          --top-k <K>              Draw from the K most likely tokens; 0 for all [default: 40]
          --top-p <P>              Draw from the fewest tokens that have probability P together; 1 for
                                   all [default: 0.95]
          --min-p <P>              Drop tokens less than P times as likely as the most likely one; 0 for
                                   none [default: 0.05]
          --repeat-penalty <X>     Make tokens that were there less likely; 1 for not at all [default:
                                   1]
          --repeat-last-n <N>      How many of the last tokens count as having been there; -1 for all
                                   [default: 64]
          --presence-penalty <X>   Subtract X from the logits of tokens that were there [default: 0]
          --frequency-penalty <X>  Subtract X from the logits of tokens for each time that they were
                                   there [default: 0]
      -s, --seed <N>               Start of the random numbers: the same seed draws the same tokens
                                   [default: another one each time]

    Examples:
      halfbyte generate "The first man on the moon was"
      halfbyte generate -n 50 --temp 0.8 --seed 7 -f story.txt
      halfbyte generate --chat --system "Answer in one word." "What is the capital of France?"
      echo "Roses are red," | halfbyte generate -m hf:OWNER/REPO:Q4_K_M
    "#);
    // Without a command, help is what people need; it was not what they asked for.
    let (code, stderr) = failure(run(&mut halfbyte()));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("Usage: halfbyte <COMMAND>"), "{stderr}");
    assert_eq!(stdout(run(halfbyte().arg("--version"))), format!("halfbyte {}\n", env!("CARGO_PKG_VERSION")));
}
