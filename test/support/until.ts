/** Waiting for what will come, however slow the machine is. */
import { setTimeout as sleep } from 'node:timers/promises';

const LOOK_EVERY_MS = 50;
/** Far above what anything takes; it only ends a test that would wait for ever. */
const DEADLINE_MS = 20_000;

/** Waits until the condition holds. @throws Error naming `what` after 20 seconds */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs = DEADLINE_MS,
): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited ${deadlineMs} ms in vain for: ${what}`);
    await sleep(LOOK_EVERY_MS);
  }
}
