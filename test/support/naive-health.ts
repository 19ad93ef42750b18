/** Reads the verdict off the whole history of checks each time, newest last. */
export function naiveVerdict(
  history: readonly boolean[],
  { rise, fall, healthy }: { rise: number; fall: number; healthy: boolean },
): boolean {
  let verdict = healthy;
  for (let end = 1; end <= history.length; end++) {
    const needed = verdict ? fall : rise;
    const recent = history.slice(Math.max(0, end - needed), end);
    if (recent.length === needed && recent.every((success) => success !== verdict)) verdict = !verdict;
  }
  return verdict;
}
