/** The version of tickrelay, from package.json, wherever this file runs: from source or from dist/. */
import { readFileSync } from 'node:fs';

const root = new URL(import.meta.url.endsWith('.ts') ? '.' : '..', import.meta.url);
const manifest = JSON.parse(readFileSync(new URL('package.json', root), 'utf8')) as { version: string };

export const VERSION = manifest.version;
