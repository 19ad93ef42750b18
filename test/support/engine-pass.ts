/** The end-to-end tests run once for each engine (vitest.ci.config.ts); what differs between these passes. */
import { test } from 'vitest';

const FIRST = 'dgram';

/** The engine of this pass. */
export const ENGINE = process.env['TICKRELAY_TEST_ENGINE'] ?? FIRST;

/** For cases that no engine has a part in: the command line, the files, the admin API, the stubs. Only the first pass has them. */
export const testOnce = ENGINE === FIRST ? test : () => undefined;
