/** Says at the end of a run why tests were skipped, each reason once: a program or a privilege that this machine lacks. */
import type { TestModule } from 'vitest/node';
import type { Reporter } from 'vitest/reporters';

/** What titles of tests that stand for a whole file begin with. */
const TITLE = /^skipped: /;

export class SkipReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const reasons = new Map<string, Set<string>>();
    for (const module of modules) {
      for (const test of module.children.allTests('skipped')) {
        const result = test.result();
        const why = ('note' in result ? result.note : undefined) ?? test.name.replace(TITLE, '');
        const files = reasons.get(why) ?? new Set();
        reasons.set(why, files.add(module.relativeModuleId));
      }
    }
    for (const [why, files] of reasons) {
      const [first, ...others] = files;
      const where = others.length === 0 ? first : `${first} and ${others.length} files more`;
      process.stdout.write(`skipped: ${why} (${where})\n`);
    }
  }
}
