"""An adapter over a corpus: its source, the engines that answer, files in and out, a resumable journal."""
